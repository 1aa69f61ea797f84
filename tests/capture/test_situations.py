"""Situations: a few batches that stand for all steps."""

from collections import Counter

import pytest
from hypothesis import given
from hypothesis import strategies as st

from fastkernels_env.capture import situations
from fastkernels_env.capture.situations import fit, nearest, representatives
from fastkernels_env.capture.traffic import TrafficError

SHIPPED = situations.shipped()
SERVED = [name for name, situation in SHIPPED.items() if situation.requests]
COUNTS = st.dictionaries(st.integers(1, 5000), st.integers(1, 100), min_size=1, max_size=40)


@pytest.mark.parametrize("name", SHIPPED)
def test_the_batches_of_a_situation_stand_for_all_of_its_steps(name):
    situation = SHIPPED[name]
    batches = situation.batches()
    steps = len(situation.steps_of(0)) if situation.requests else situation.steps
    assert sum(batch.steps for batch in batches) == steps
    assert batches == situation.batches()
    for batch in batches:
        assert 1 <= batch.sequences <= batch.tokens
        assert (batch.context is None) == (batch.kind == "prefill")


@pytest.mark.parametrize("name", SERVED)
def test_another_seed_is_other_traffic_of_the_same_kind(name):
    one, other = (sum(step.tokens for step in SHIPPED[name].steps_of(seed)) for seed in (0, 1))
    if SHIPPED[name].prompt.sigma:
        assert one != other
    assert one == pytest.approx(other, rel=0.4)


def test_chat_prompts_make_the_steps_that_a_server_was_seen_to_run():
    """327,159 prompt and 388,814 output tokens in 1,044 steps, 21 of them prompts, twenty of these full."""
    steps = SHIPPED["chat"].steps_of(0)
    prompts = [step for step in steps if step.kind == "prefill"]
    assert sum(step.tokens for step in prompts) == pytest.approx(327_159, rel=0.05)
    assert sum(len(step.decode) for step in steps) + 1000 == pytest.approx(388_814, rel=0.05)
    assert len(prompts) == 21
    assert Counter(step.tokens for step in prompts)[16384] == 20
    assert len(steps) == 1044
    assert all(17 <= step.sequences <= 72 for step in prompts)


@given(COUNTS, st.integers(1, 6))
def test_representatives_are_the_ends_the_middle_and_the_hottest(counts, most):
    chosen = representatives(counts, most)
    assert chosen == sorted(set(chosen))
    assert len(chosen) <= min(most, 4)
    assert max(counts) in chosen
    if most >= 4:
        assert min(counts) in chosen
        assert max(counts.values()) in {counts[size] for size in chosen}


@given(COUNTS)
def test_every_size_has_a_nearest_one(counts):
    chosen = representatives(counts)
    for size in counts:
        assert max(size / nearest(size, chosen), nearest(size, chosen) / size) == min(max(size / c, c / size) for c in chosen)


def test_a_distribution_is_found_again():
    from random import Random

    from fastkernels_env.capture.traffic import Lengths

    found = fit(Lengths(median=500, sigma=0.9, low=1).draw(Random(0), 4000))
    assert found.median == pytest.approx(500, rel=0.05)
    assert found.sigma == pytest.approx(0.9, rel=0.05)
    assert found.mean == pytest.approx(750, rel=0.1)


@pytest.mark.parametrize(("text", "message"), [
    ("[mine]\nsummary = 'x'\n", "one of prefill, decode and requests"),
    ("[mine]\nsummary = 'x'\ndecode = 4\n", "context, the lengths in its caches"),
    ("[mine]\nsummary = 'x'\nrequests = 4\n", "prompt and output, the distributions"),
    ("[mine]\nsummary = 'x'\nprefill = 4\nsequences = 5\n", "sequences from 1 to prefill"),
    ("[mine]\nsummary = 'x'\nprefil = 4\n", "is no list of workloads, a table each: .*prefil"),
    ("[mine\n", "is no list of workloads"),
])
def test_a_file_that_means_nothing_is_named(tmp_path, text, message):
    path = tmp_path / "mine.toml"
    path.write_text(text)
    with pytest.raises(TrafficError, match=message):
        situations.load(str(path))


def test_a_name_that_means_nothing_is_named():
    with pytest.raises(TrafficError, match="there is no workload 'chatt'; known are chat, "):
        situations.load("chatt")
    with pytest.raises(TrafficError, match="cannot be read"):
        situations.load("/nowhere/mine.toml")
