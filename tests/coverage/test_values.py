"""Values that models ask for while they run without data."""

import torch

from fastkernels_env.coverage import values
from fastkernels_env.coverage.alike import repeated
from fastkernels_env.coverage.hooks import _Functions
from fastkernels_env.coverage.tracing import Tracer


def traced(run):
    tracer = Tracer()
    with _Functions(tracer), tracer, torch.device("meta"):
        return run()


def test_nothing_unknown_is_padding():
    image = torch.empty(2, 3, 1 << 12, 1 << 12, device="meta")
    assert traced(lambda: ((image == 0).sum((1, 2, 3)) != 3 << 24).tolist()) == [True, True]
    assert traced(lambda: (image != 0).all().item()) is True


def test_a_mask_that_is_not_known_selects_all():
    scores = torch.empty(2, 3, device="meta")
    assert traced(lambda: torch.nonzero(scores > 0.5)).shape == (6, 2)


def test_values_survive_masks_lists_and_buffers():
    with torch.device("cpu"):
        sizes = values.known(torch.tensor([[1, 4, 6], [1, 2, 2]]))

    def run():
        offsets = torch.empty(2, dtype=torch.int64)
        offsets[0] = 0
        offsets[1:] = sizes.prod(-1).cumsum(0)[:-1]
        swapped = sizes[:, [0, 2, 1]]
        limits = torch.tensor([0, sizes[0, 1]], device="meta")
        return offsets.tolist(), swapped.tolist(), sizes[sizes > 2].tolist(), limits.tolist()

    assert traced(run) == ([0, 24], [[1, 6, 4], [1, 2, 2]], [4, 6], [0, 4])


def test_convolutions_that_differ_in_their_step_alone_are_not_alike():
    def net(step):
        return torch.nn.Sequential(torch.nn.Conv2d(4, 4, 3), torch.nn.Conv2d(4, 4, 3, stride=step))

    assert len(set(repeated(net(1)).values())) == 1
    assert len(set(repeated(net(2)).values())) == 2
