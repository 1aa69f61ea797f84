"""A task's own measures: what agrees in full has no discrepancy, what does in nothing one of 1, and production's noise sets the limit."""

import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from fastkernels_env.agreement import LEAST, MOST, allowed, boxes_agree, cosines_agree, overlaps, tokens_agree


def tokens(rows):
    return torch.tensor(rows, dtype=torch.int32)


def scores_of(expected, vocabulary=8, margin=1.0):
    """Scores whose best token is the expected one, by a margin."""
    scores = torch.zeros((*expected.shape, vocabulary), dtype=torch.float64)
    return scores.scatter_(-1, expected.long()[..., None], margin)


@given(st.floats(0, 2))
def test_the_limit_is_twice_the_noise_within_bounds(noise):
    limit = allowed(noise)
    assert LEAST <= limit <= MOST
    if LEAST <= 2 * noise <= MOST:
        assert limit == 2 * noise


def test_equal_tokens_agree():
    expected = tokens([[1, 2, 3], [4, 5, 6]])
    found = tokens_agree(expected.clone(), expected, tokens([1, 1]), scores_of(expected), 0.0)
    assert found.ok
    assert (found.discrepancy, found.elements) == (0.0, 6)


def test_what_follows_a_wrong_token_is_not_compared():
    expected = tokens([[1, 2, 3, 4]])
    found = tokens_agree(tokens([[1, 7, 7, 7]]), expected, tokens([1]), scores_of(expected), 0.0)
    assert not found.ok
    assert (found.discrepancy, found.elements) == (0.5, 2)


def test_tokens_that_are_not_fed_back_are_all_compared():
    expected = tokens([[1, 2, 3, 4]])
    found = tokens_agree(tokens([[7, 7, 3, 4]]), expected, tokens([4]), scores_of(expected), 0.0)
    assert (found.discrepancy, found.elements) == (0.5, 4)


def test_a_token_as_good_as_the_best_is_no_mistake_and_ends_the_comparison():
    expected = tokens([[1, 2, 3]])
    scores = scores_of(expected)
    scores[0, 1, 5] = 1.0 - 1e-9
    found = tokens_agree(tokens([[1, 5, 0]]), expected, tokens([1]), scores, 1e-6)
    assert found.ok
    assert found.elements == 1


def test_a_tie_is_forgiven_only_within_the_slack():
    expected = tokens([[1, 2, 3]])
    scores = scores_of(expected)
    scores[0, 1, 5] = 0.9
    assert not tokens_agree(tokens([[1, 5, 0]]), expected, tokens([1]), scores, 1e-6).ok


@pytest.mark.parametrize("wrong", [-1, 8, 2**30, -(2**31)])
def test_tokens_out_of_range_are_wrong(wrong):
    expected = tokens([[1, 2, 3]])
    found = tokens_agree(torch.full_like(expected, wrong), expected, tokens([1]), scores_of(expected), 10.0)
    assert found.discrepancy == 1.0


def test_nothing_compared_is_no_agreement_unless_there_is_nothing():
    expected = tokens([[1]])
    assert not tokens_agree(tokens([[2]]), expected, tokens([1]), scores_of(expected), 10.0).ok
    none = torch.zeros((0, 3), dtype=torch.int32)
    assert tokens_agree(none, none, torch.zeros(0, dtype=torch.int32), scores_of(none), 0.0).ok


def test_production_s_noise_allows_for_as_much():
    expected = tokens([[1, 2, 3, 4]])
    actual = tokens([[1, 2, 3, 7]])
    assert not tokens_agree(actual, expected, tokens([1]), scores_of(expected), 0.0, baseline=0.1).ok
    assert tokens_agree(actual, expected, tokens([1]), scores_of(expected), 0.0, baseline=0.2).ok


@given(st.floats(1e-3, 1e3), st.integers(1, 20))
def test_a_scale_keeps_the_cosine_and_a_sign_does_not(scale, count):
    vectors = torch.randn(count, 16, generator=torch.Generator().manual_seed(count))
    assert cosines_agree(vectors * scale, vectors.double()).ok
    assert cosines_agree(-vectors, vectors.double()).discrepancy == pytest.approx(2.0)


@pytest.mark.parametrize("bad", [math.nan, math.inf, 0.0])
def test_one_vector_that_is_none_is_seen_among_many(bad):
    vectors = torch.randn(100, 16, generator=torch.Generator().manual_seed(1))
    actual = vectors.clone()
    actual[57] = bad
    assert cosines_agree(actual, vectors.double()).discrepancy >= 1.0


def detections(count=50):
    generator = torch.Generator().manual_seed(0)
    corners = torch.rand(2, count, 2, generator=generator) * 100
    sizes = torch.rand(2, count, 2, generator=generator) * 50 + 5
    scores = torch.rand(2, count, 1, generator=generator)
    classes = torch.randint(5, (2, count, 1), generator=generator).float()
    return torch.cat([corners, corners + sizes, scores, classes], -1)


@given(st.permutations(range(50)))
def test_equal_boxes_match_in_any_order(order):
    boxes = detections()
    found = boxes_agree(boxes[:, list(order)], boxes.double(), 0.5)
    assert found.ok
    assert found.discrepancy == 0.0
    assert found.elements == 2 * int((boxes[..., 4] >= 0.5).sum())


@pytest.mark.parametrize("change", ["far", "class", "score", "nan"])
def test_boxes_that_are_elsewhere_or_of_another_class_do_not(change):
    boxes = detections()
    actual = boxes.clone()
    if change == "far":
        actual[..., :4] += 1000
    elif change == "class":
        actual[..., 5] += 7
    elif change == "score":
        actual[..., 4] = 0.0
    else:
        actual[:] = math.nan
    assert boxes_agree(actual, boxes.double(), 0.5).discrepancy == 1.0


def test_one_box_many_times_is_not_all_of_them():
    boxes = detections()
    boxes[..., 4] = 1.0
    assert boxes_agree(boxes[:, :1].expand(-1, 50, -1), boxes.double(), 0.5).discrepancy > 0.3


def test_images_are_matched_apart():
    boxes = detections()
    assert boxes_agree(boxes.flip(0), boxes.double(), 0.0, overlap=0.9).discrepancy > 0.9


def test_no_detections_agree_with_none():
    boxes = detections()
    boxes[..., 4] = 0.0
    assert boxes_agree(boxes, boxes.double(), 0.5).ok


def test_an_overlap_by_hand():
    a, b = torch.tensor([0.0, 0, 2, 2]), torch.tensor([1.0, 1, 3, 3])
    assert float(overlaps(a, b)) == pytest.approx(1 / 7)
    assert float(overlaps(a, a + 10)) == 0.0
