"""The space of source texts."""

from __future__ import annotations

import copy
import json
import pickle

import numpy as np
import pytest
from gymnasium import spaces
from gymnasium.spaces import utils
from gymnasium.vector.utils import batch_space, concatenate, create_empty_array, iterate
from hypothesis import given
from hypothesis import strategies as st

from fastkernels_env.registry import load_task, task_folders
from fastkernels_env.spaces import SourceText, seed_replies
from fastkernels_env.submission import LANGUAGES, MAX_CHARS, extract

SAMPLES = ["one", "two — δ", "three"]


@pytest.mark.parametrize("text", ["", "int x;\n", "é — Δ ≤ 😀", "\0", "\ud800", "x" * MAX_CHARS, np.str_("text")])
def test_any_text_within_the_limits_is_inside(text):
    assert text in SourceText()


@pytest.mark.parametrize("other", ["x" * (MAX_CHARS + 1), b"bytes", None, 3, ["text"], np.array("text")])
def test_everything_else_is_outside(other):
    assert other not in SourceText()


def test_the_shortest_length_counts():
    space = SourceText(5, min_length=2)
    assert "a" not in space
    assert "ab" in space


def test_sample_draws_the_samples():
    space = SourceText(samples=SAMPLES, seed=1)
    assert {space.sample() for _ in range(60)} == set(SAMPLES)


def test_sample_is_seeded():
    first, second = SourceText(samples=SAMPLES), SourceText(samples=SAMPLES)
    first.seed(7)
    second.seed(7)
    assert [first.sample() for _ in range(20)] == [second.sample() for _ in range(20)]


def test_sample_without_samples_is_inside():
    assert SourceText().sample() == ""
    assert SourceText(9, min_length=3).sample() in SourceText(9, min_length=3)


def test_masks_and_outside_samples_are_refused():
    with pytest.raises(ValueError, match="no mask"):
        SourceText(samples=SAMPLES).sample(mask=(None, None))
    with pytest.raises(ValueError, match="samples of 0 to 4 characters, got one of 7"):
        SourceText(4, samples=["one", "two — δ"])
    with pytest.raises(ValueError, match="less than or equal"):
        SourceText(4, min_length=5)


def test_repr_is_short_and_can_be_evaluated():
    space = SourceText(99, min_length=1, samples=["x" * 99])
    assert len(repr(space)) < 60
    assert eval(repr(space)) == space


def test_equality_is_by_limits():
    assert SourceText(5) == SourceText(5, samples=["a"])
    assert SourceText(5) != SourceText(6)
    assert SourceText(5) != SourceText(5, min_length=1)
    assert SourceText(5) != spaces.Text(5, min_length=0)


def test_json_round_trip():
    space = SourceText(samples=SAMPLES)
    assert space.from_jsonable(json.loads(json.dumps(space.to_jsonable(SAMPLES)))) == SAMPLES
    nested = spaces.Dict(text=space, turn=spaces.Discrete(3))
    points = [{"text": "é", "turn": np.int64(1)}]
    assert nested.from_jsonable(json.loads(json.dumps(nested.to_jsonable(points)))) == points


@pytest.mark.parametrize("duplicate", [copy.deepcopy, lambda space: pickle.loads(pickle.dumps(space))])
def test_copies_are_equal_and_draw_alike(duplicate):
    space = SourceText(samples=SAMPLES, seed=3)
    twin = duplicate(space)
    assert twin == space
    assert [twin.sample() for _ in range(9)] == [space.sample() for _ in range(9)]


@given(st.text(max_size=40))
def test_flattening_keeps_the_text(text):
    space = SourceText(40)
    flat = utils.flatten(space, text)
    assert utils.flatten_space(space).contains(flat)
    assert utils.flatdim(space) == flat.size
    assert utils.unflatten(space, flat) == text


def test_flattening_inside_a_dict():
    space = spaces.Dict(text=SourceText(8), turn=spaces.Discrete(3))
    point = {"text": "Δt ≤ 1", "turn": np.int64(2)}
    flat = utils.flatten(space, point)
    assert utils.flatten_space(space).contains(flat)
    assert utils.unflatten(space, flat) == point


def test_batching():
    space = SourceText(9, samples=["one", "two"])
    batched = batch_space(space, 3)
    sample = batched.sample()
    assert batched.contains(sample)
    assert list(iterate(batched, sample)) == list(sample)
    assert concatenate(space, ["a", "bc"], create_empty_array(space, 2)) == ("a", "bc")


@pytest.mark.parametrize("device", ["cpu", "cuda"])
@pytest.mark.parametrize("name", task_folders())
def test_every_seed_reply_is_a_submission_for_its_device(name, device):
    task = load_task(name)
    replies = seed_replies(task, device)
    codes = {code.strip() for code in task.seeds().values()}
    assert replies
    for reply in replies:
        submission = extract(reply, task, device)
        assert submission.language in LANGUAGES[device]
        assert submission.code.strip() in codes
