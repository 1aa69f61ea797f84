"""Which wrong outputs are mistakes and which are lies."""

from __future__ import annotations

import pytest
import torch

from fastkernels_env.device.cpu import CpuDevice
from fastkernels_env.judge.answers import Answers, TimedFailure, _equal, _repeated
from fastkernels_env.judge.geometry import Geometry
from fastkernels_env.judge.sets import InputSets
from fastkernels_env.rearrange import Rows, gather
from fastkernels_env.registry import load_task
from fastkernels_env.task import Workload

CALLS = 4
ALL = slice(0, 2 * CALLS)


class Board:
    """Input sets of rms_norm, and what a right kernel answers to them."""

    def __init__(self):
        task = load_task("rms_norm")
        workload = Workload(name="small", device="cpu", dtype="float32", sizes={"T": 6, "H": 32})
        self.sets = InputSets(task, workload, Geometry(CALLS, 1, {}, 256, {}, 0), 3, CpuDevice())
        self.generator = torch.Generator().manual_seed(1)
        self.answers = Answers(self.sets)
        plain = self.arrange(plain=True)
        self.answers.check(plain, slice(0, self.sets.geometry.entries), self.right(plain, range(self.sets.geometry.entries)))

    def arrange(self, **options):
        return self.sets.arrange(self.generator, **options)

    def right(self, arrangement, slots=range(2 * CALLS)):
        return {"out": torch.stack([self.sets.case(arrangement, slot).expected["out"].float() for slot in slots])}


@pytest.fixture
def board():
    return Board()


def test_right_answers_to_rearranged_inputs_are_right(board):
    for _ in range(3):
        arrangement = board.arrange(count=2 * CALLS, renewed=2)
        board.answers.check(arrangement, ALL, board.right(arrangement))


def test_known_answers_are_not_computed_again(board):
    arrangement = board.arrange()
    outputs = board.right(arrangement)
    board.sets._args["input"].zero_()  # from here on the oracle would say something else
    board.answers.check(arrangement, ALL, outputs)


@pytest.mark.parametrize("factor", [2.0, 0.5, -1.0])
def test_a_wrong_scale_is_a_mistake(board, factor):
    """Not what another arrangement of the same inputs would have given."""
    arrangement = board.arrange()
    with pytest.raises(TimedFailure) as caught:
        board.answers.check(arrangement, ALL, {"out": board.right(arrangement)["out"] * factor})
    assert not caught.value.tampered


def test_stale_signs_are_no_mistake(board):
    arrangement = board.arrange()
    outputs = board.right(arrangement)["out"]
    outputs[0, ::2] *= -1
    outputs[0, 1] *= 0.5
    with pytest.raises(TimedFailure) as caught:
        board.answers.check(arrangement, ALL, {"out": outputs})
    assert caught.value.tampered


def test_other_bits_of_the_same_value_are_right(board):
    arrangement = board.arrange()
    outputs = board.right(arrangement)
    board.answers.check(arrangement, ALL, {"out": outputs["out"] * (1 + 1e-6)})


def failure(board, arrangement, outputs):
    with pytest.raises(TimedFailure) as raised:
        board.answers.check(arrangement, ALL, {"out": outputs})
    return raised.value


def test_the_answer_of_an_earlier_block_is_a_lie(board):
    earlier = board.right(board.arrange())["out"]
    arrangement = board.arrange()
    outputs = board.right(arrangement)["out"]
    outputs[3] = earlier[3]
    assert failure(board, arrangement, outputs).tampered


def test_the_answer_to_a_set_that_was_drawn_anew_since_is_a_lie(board):
    arrangement = board.arrange(count=2 * CALLS, renewed=3)
    earlier = {index: board.answers._known["out"][index].clone() for index in arrangement.order[arrangement.kept].tolist()}
    board.answers.check(arrangement, ALL, board.right(arrangement))
    outputs = board.right(arrangement)["out"]
    slot = int(arrangement.kept.nonzero()[0])
    outputs[slot] = earlier[int(arrangement.order[slot])] * -2
    assert failure(board, arrangement, outputs).tampered


def test_the_answer_to_an_entry_that_was_compared_once_is_a_lie(board):
    weights = board.arrange(plain=True)
    case = board.sets.entry(1, board.sets.draw(1), board.sets.metadata(weights, slice(1, 2)), oracle=True)
    once = case.expected["out"].float()
    board.answers.compare({0: case}, {"out": once[None]})
    arrangement = board.arrange()
    outputs = board.right(arrangement)["out"]
    outputs[5] = once
    assert failure(board, arrangement, outputs).tampered


def test_the_answer_of_an_earlier_block_with_other_signs_is_a_lie(board):
    earlier = board.right(board.arrange())["out"]
    arrangement = board.arrange()
    outputs = board.right(arrangement)["out"]
    outputs[2] = earlier[5] * torch.tensor([-1.0, 1, -1, 1, 1, -1])[:, None] * 4
    assert failure(board, arrangement, outputs).tampered


@pytest.mark.parametrize("blank", [float("nan"), 2.0**100])
def test_nothing_written_is_a_lie(board, blank):
    arrangement = board.arrange()
    outputs = board.right(arrangement)["out"]
    outputs[0] = blank
    assert failure(board, arrangement, outputs).tampered


@pytest.mark.parametrize("spoil", [
    lambda out: out.mul_(1.02), lambda out: out[2:].zero_(), lambda out: out[-1].fill_(float("nan")), lambda out: out[1:].fill_(2.0**100),
    lambda out: out.copy_(out.flip(1)),
])  # fmt: skip
def test_an_error_is_an_error(board, spoil):
    arrangement = board.arrange()
    outputs = board.right(arrangement)["out"]
    for output in outputs:
        spoil(output)
    assert not failure(board, arrangement, outputs).tampered


def test_a_fresh_entry_must_be_right_too(board):
    arrangement = board.arrange(count=2 * CALLS, renewed=1)
    slot = int(arrangement.kept.nonzero())
    outputs = board.right(arrangement)["out"]
    outputs[slot] *= 1.02
    assert not failure(board, arrangement, outputs).tampered


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
def test_signs_of_zeros_and_roundings_of_subnormals_do_not_make_an_answer_another(dtype):
    """A sign and a power of two carry everything over but these."""
    tiny = torch.finfo(dtype).smallest_normal
    known = torch.tensor([[0.0, 1.0, tiny, 3 * tiny * torch.finfo(dtype).eps]], dtype=dtype)
    rows = Rows(torch.tensor([[0]]), torch.tensor([[-0.5]]))
    due = gather(known, rows)
    assert _repeated(due, known, rows).all()
    same = due.clone()
    same[0, 0] = 0.0
    same[0, 3] = due[0, 3] + tiny * torch.finfo(dtype).eps
    assert not _repeated(same, known, rows).any()
    assert _equal(same[0], due[0])
    for place, other in ((1, due[0, 1] * (1 + 2 * torch.finfo(dtype).eps)), (0, tiny), (2, 0.0)):
        wrong = due.clone()
        wrong[0, place] = other
        assert not _repeated(wrong, known, rows).any()
        assert not _equal(wrong[0], due[0])


@pytest.mark.parametrize("dtype", [torch.int32, torch.int64])
def test_integers_are_repeated_to_the_bit(dtype):
    known = torch.tensor([[3, 4]], dtype=dtype)
    rows = Rows(torch.tensor([[0]]))
    assert _repeated(known.clone(), known, rows).all()
    assert not _repeated(known + 1, known, rows).any()


def test_not_a_number_where_one_is_known_is_repeated_and_elsewhere_is_not():
    known = torch.tensor([[float("nan"), 1.0]])
    rows = Rows(torch.tensor([[0]]))
    assert _repeated(known.clone(), known, rows).all()
    assert not _repeated(torch.full((1, 2), float("nan")), known, rows).any()
