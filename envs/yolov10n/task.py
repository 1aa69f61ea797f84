"""YOLOv10-N: an end-to-end detector."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, ClassVar

import torch

from ...agreement import boxes_agree
from ...ops import load_program, reference
from ...task import LAYER, Baseline, Cost, Input, Op, Output, Scalar, Task, Weight, Workload

if TYPE_CHECKING:
    from ...agreement import Agreement
    from ...recipes import Draw
    from ...task import Range, Value

_THRESHOLD = 0.25
"""Score from which a detection counts, as in the model's own evaluation scripts."""
_WHERE = (
    "where s is half the side of the kernel, rounded down, what lies outside of the input is 0, and act(v) is v / (1 + exp(-v)) if "
    "activated, else v. Accumulate in float32 or better and round once."
)
_CONV = (
    "out[b, y, x, o] = act(bias[o] + sum over i, j, c of input[b, y * stride + i - s, x * stride + j - s, c] * weight[o, i, j, c]), "
    + _WHERE
)
_DEPTHWISE = (
    "out[b, y, x, c] = act(bias[c] + sum over i, j of input[b, y * stride + i - s, x * stride + j - s, c] * weight[i, j, c]), " + _WHERE
)


class Yolov10n(Task):
    """Images to the 300 best boxes: backbone, neck, head and decoding, with replaceable convolutions, pooling, attention and decoding."""

    entry = "yolov10n"
    summary = "Detect objects with YOLOv10-N: convolutional backbone, neck and head, box decoding and the 300 best of all candidates."
    semantics = (
        "The program below is the definition: YOLOv10-N with its batch norms folded into the convolutions, in NHWC, its one-to-one head "
        "only. scores[b, a] is the largest of the class logits of candidate a; candidates are the cells of strides 8, 16 and 32, in that "
        "order, row by row. detections[b] holds the best candidates by score, best first: corners x0, y0, x1, y1 in pixels, the sigmoid of "
        "the score, and the class."
    )
    mirrors = "ultralytics YOLOv10 (yolov10n.yaml) after fuse(), with its postprocessing"
    level = "L4"
    category = "edge"
    architectures = ("yolov10",)
    numerics = LAYER
    ops = (
        Op("conv", _CONV, (
            Output("out", "B", "h", "w", "O"), Input("input", "B", "H", "W", "C"), Weight("weight", "O", "k", "k", "C"),
            Weight("bias", "O"), Scalar("stride", "int"), Scalar("activated", "bool"),
        )),
        Op("depthwise_conv", _DEPTHWISE, (
            Output("out", "B", "h", "w", "C"), Input("input", "B", "H", "W", "C"), Weight("weight", "k", "k", "C"), Weight("bias", "C"),
            Scalar("stride", "int"), Scalar("activated", "bool"),
        )),
        Op("max_pool", "out[b, y, x, c] = the largest input[b, y + i, x + j, c] for i and j from -2 to 2, as far as it lies inside.", (
            Output("out", "B", "H", "W", "C"), Input("input", "B", "H", "W", "C"),
        )),
        Op("attention", "out[b, n, h] = sum over m of softmax over m of (scale * query[b, n, h] . key[b, m, h]) times value[b, m, h].", (
            Output("out", "B", "N", "h", "v"), Input("query", "B", "N", "h", "d"), Input("key", "B", "N", "h", "d"),
            Input("value", "B", "N", "h", "v"), Scalar("scale", "float"),
        )),
        Op("box_decode", (
            "With t[s] = sum over j of j * softmax over j of bins[b, a, s, j] for the four sides: out[b, a] = strides[a] times (x - t[0], "
            "y - t[1], x + t[2], y + t[3]) where (x, y) = centres[a]."
        ), (
            Output("out", "B", "A", 4), Input("bins", "B", "A", 4, 16), Input("centres", "A", 2), Input("strides", "A"),
        )),
    )  # fmt: skip
    signature = (
        Output("detections", "B", "K", 6, dtype="float32"),
        Output("scores", "B", "A", dtype="float32"),
        Input("images", "B", "R", "R", 3, doc="0 to 1"),
        Weight("parameters", "P", doc="weight and bias of every convolution in order, each at a multiple of 64 elements"),
    )
    baselines = (
        Baseline(name="eager", file="eager.py"),
        Baseline(name="compile", file="eager.py", devices=("cuda",), compile=True),
    )
    measures: ClassVar[Mapping[str, str]] = {
        "detections": "one less the F1 score of boxes above a score of 0.25 that overlap one of the reference's of the same class (IoU of "
        "0.75 at least) may be twice that of the best baseline on the same inputs, or 0.001 if that is more"
    }
    batch = "B"
    ragged: ClassVar[Mapping[str, Mapping[str, Range]]] = {"cpu": {"B": (1, 3)}, "cuda": {"B": (1, 40)}}
    variants: ClassVar[Mapping[str, tuple[Mapping[str, int], ...]]] = {"cpu": ({"R": 96}, {"R": 160}), "cuda": ({"R": 320}, {"R": 416})}

    def complete(self, sizes: Mapping[str, int]) -> dict[str, int]:
        program, cells = load_program(self), [(sizes["R"] // stride) ** 2 for stride in (8, 16, 32)]
        counts = [torch.Size(shape).numel() for shape in program.SHAPES] + [outputs for _, _, outputs, _, _, _ in program.LAYERS]
        return {**sizes, "A": sum(cells), "K": min(300, sum(cells)), "P": sum(map(program.padded, counts))}

    def inputs(self, workload: Workload, draw: Draw) -> dict[str, Value]:
        dtype = getattr(torch, workload.dtype)
        images = self._pictures(draw, workload.sizes["B"], workload.sizes["R"]).to(dtype)
        return {"images": images, "parameters": draw.weight(lambda: self._parameters(draw, dtype))}

    @staticmethod
    def _pictures(draw: Draw, count: int, side: int) -> torch.Tensor:
        """Things of several sizes and some noise, each picture with a contrast of its own: ``[count, side, side, 3]``, 0 to 1."""
        pictures = torch.zeros((max(count, 1), 3, side, side), device=draw.device)
        for cells in (2, 4, 8, 16, side):
            part = torch.rand((max(count, 1), 3, cells, cells), generator=draw.generator, device=draw.device)
            pictures += torch.nn.functional.interpolate(part, (side, side), mode="nearest") - 0.5
        contrast = torch.rand((max(count, 1), 1, 1, 1), generator=draw.generator, device=draw.device).mul_(0.5).add_(0.2)
        return pictures.mul_(contrast).add_(0.5).clamp_(0, 1).permute(0, 2, 3, 1)[:count].contiguous()

    def _parameters(self, draw: Draw, dtype: torch.dtype) -> torch.Tensor:
        """Weights scaled by what each layer makes of a few pictures, as batch norms are once they are folded: no map dies or grows.

        Class biases leave some detections above the threshold; distances are sharp, so that boxes differ.
        """
        program, parts, number = load_program(self), [torch.empty(0, device=draw.device)], iter(range(len(load_program(self).LAYERS)))

        def run(x: torch.Tensor) -> torch.Tensor:
            place = next(number)
            depthwise, _, outputs, side, stride, act = program.LAYERS[place]
            weight, bias = draw.normal(program.SHAPES[place], torch.float32), torch.zeros(outputs, device=draw.device)
            out = x.new_empty(len(x), *((extent + 2 * (side // 2) - side) // stride + 1 for extent in x.shape[1:3]), outputs)
            op, last = program.depthwise_conv if depthwise else program.conv, outputs == program.CLASSES and not act
            op(out, x.contiguous(), weight, bias, stride, False)
            wanted = 1.2 if last else 3.0 if outputs == 4 * program.BINS and not act else 1.0
            scale = wanted / float(out.flatten(0, 2).var(0).mean().sqrt())
            shift = draw.normal((outputs,), torch.float32, 0.3) - (4.0 if last else 0.0)
            bias, weight = shift - out.flatten(0, 2).mean(0) * scale, weight * scale
            parts.extend(torch.nn.functional.pad(v.flatten(), (0, program.padded(v.numel()) - v.numel())) for v in (weight, bias))
            op(out, x.contiguous(), weight, bias, stride, act)
            return out

        program.features(self._pictures(draw, 8, 128), run)
        return torch.cat(parts).to(dtype)

    def oracle(self, args: Mapping[str, Value]) -> dict[str, torch.Tensor]:
        images = torch.as_tensor(args["images"])
        size = self.complete({"R": images.shape[1]})
        return reference(self, args, detections=(len(images), size["K"], 6), scores=(len(images), size["A"]))

    def agreement(self, name: str, actual: torch.Tensor, expected: Mapping[str, torch.Tensor], baseline: float) -> Agreement:
        """Detections by the F1 score of matched boxes."""
        return boxes_agree(actual, expected["detections"], _THRESHOLD, baseline, 0.75)

    def cost(self, workload: Workload, args: Mapping[str, Value]) -> Cost:
        size, item = self.complete(workload.sizes), getattr(torch, workload.dtype).itemsize
        moved = (3 * size["B"] * size["R"] ** 2 + size["P"]) * item + 4 * size["B"] * (size["A"] + 6 * size["K"])
        return Cost(bytes=moved, flops=size["B"] * size["R"] ** 2 * 16_000)  # 6.7e9 at 640 pixels, as published


TASK = Yolov10n()
