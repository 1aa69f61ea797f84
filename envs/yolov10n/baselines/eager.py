"""YOLOv10-N in plain torch, batch norms folded: the program around the ops. All feature maps are NHWC."""

import torch
from torch.nn import functional

CLASSES, BINS, KEPT = 80, 16, 300
STRIDES = (8, 16, 32)


def conv(out, input, weight, bias, stride, activated):
    x = functional.conv2d(input.permute(0, 3, 1, 2), weight.permute(0, 3, 1, 2), bias, stride, weight.shape[1] // 2)
    out.copy_((functional.silu(x) if activated else x).permute(0, 2, 3, 1))


def depthwise_conv(out, input, weight, bias, stride, activated):
    kernel = weight.permute(2, 0, 1)[:, None]
    x = functional.conv2d(input.permute(0, 3, 1, 2), kernel, bias, stride, weight.shape[0] // 2, groups=weight.shape[2])
    out.copy_((functional.silu(x) if activated else x).permute(0, 2, 3, 1))


def max_pool(out, input):
    out.copy_(functional.max_pool2d(input.permute(0, 3, 1, 2), 5, 1, 2).permute(0, 2, 3, 1))


def attention(out, query, key, value, scale):
    q, k, v = (x.transpose(1, 2) for x in (query, key, value))
    out.copy_(functional.scaled_dot_product_attention(q, k, v, scale=scale).transpose(1, 2))


def box_decode(out, bins, centres, strides):
    steps = torch.arange(bins.shape[3], dtype=bins.dtype, device=bins.device)
    distances = (bins.softmax(-1) * steps).sum(-1)
    low, high = centres - distances[..., :2], centres + distances[..., 2:]
    out.copy_(torch.cat([low, high], -1) * strides[:, None])


def layers():
    """Every convolution in order: depthwise or not, channels in and out, side, stride, whether SiLU follows."""
    found = []

    def add(inputs, outputs, side=1, stride=1, act=True, depthwise=False):
        found.append((depthwise, inputs, outputs, side, stride, act))

    def split(inputs, outputs, repeats):
        half = outputs // 2
        add(inputs, outputs)
        for _ in range(2 * repeats):
            add(half, half, 3)
        add((2 + repeats) * half, outputs)

    def down(inputs, outputs):
        add(inputs, outputs)
        add(outputs, outputs, 3, 2, act=False, depthwise=True)

    add(3, 16, 3, 2)
    add(16, 32, 3, 2)
    split(32, 32, 1)
    add(32, 64, 3, 2)
    split(64, 64, 2)
    down(64, 128)
    split(128, 128, 2)
    down(128, 256)
    split(256, 256, 1)
    add(256, 128)  # SPPF
    add(512, 256)
    add(256, 256)  # PSA
    add(128, 256, act=False)
    add(128, 128, 3, act=False, depthwise=True)
    add(128, 128, act=False)
    add(128, 256)
    add(256, 128, act=False)
    add(256, 256)
    split(384, 128, 1)
    split(192, 64, 1)
    add(64, 64, 3, 2)
    split(192, 128, 1)
    down(128, 128)
    add(384, 256)  # C2fCIB with a large kernel
    add(128, 128, 3, depthwise=True)
    add(128, 256)
    add(256, 256, 7, depthwise=True)
    add(256, 128)
    add(128, 128, 3, depthwise=True)
    add(384, 256)
    for width in (64, 128, 256):
        add(width, 64, 3)
        add(64, 64, 3)
        add(64, 4 * BINS, act=False)
        add(width, width, 3, depthwise=True)
        add(width, CLASSES)
        add(CLASSES, CLASSES, 3, depthwise=True)
        add(CLASSES, CLASSES)
        add(CLASSES, CLASSES, act=False)
    return tuple(found)


LAYERS = layers()
SHAPES = tuple((side, side, outputs) if depthwise else (outputs, side, side, inputs) for depthwise, inputs, outputs, side, _, _ in LAYERS)


def padded(count):
    """Elements up to the next weight: all of them start at a multiple of 64 elements."""
    return -(-count // 64) * 64


def runner(parameters):
    """A function that runs the convolutions one after the other, with weights and biases from one flat tensor."""
    place = number = 0

    def taken(shape):
        nonlocal place
        count = 1
        for extent in shape:
            count *= extent
        first, place = place, place + padded(count)
        return parameters[first : first + count].view(shape)

    def run(x):
        nonlocal number
        depthwise, _, outputs, side, stride, act = LAYERS[number]
        weight, bias = taken(SHAPES[number]), taken((outputs,))
        number += 1
        rows, columns = ((extent + 2 * (side // 2) - side) // stride + 1 for extent in x.shape[1:3])
        out = x.new_empty(x.shape[0], rows, columns, outputs)
        (depthwise_conv if depthwise else conv)(out, x.contiguous(), weight, bias, stride, act)
        return out

    return run


def split(run, x, repeats, shortcut):
    first, last = run(x).chunk(2, -1)
    parts = [first, last]
    for _ in range(repeats):
        inner = run(run(parts[-1]))
        parts.append(parts[-1] + inner if shortcut else inner)
    return run(torch.cat(parts, -1))


def pools(run, x):
    parts = [run(x)]
    for _ in range(3):
        pooled = torch.empty_like(parts[-1])
        max_pool(pooled, parts[-1])
        parts.append(pooled)
    return run(torch.cat(parts, -1))


def attend(run, x):
    batch, rows, columns, width = x.shape
    heads = width // 64
    query, key, value = run(x).view(batch, rows * columns, heads, 128).split([32, 32, 64], -1)
    mixed = x.new_empty(batch, rows * columns, heads, 64)
    attention(mixed, query.contiguous(), key.contiguous(), value.contiguous(), 32**-0.5)
    placed = run(value.reshape(x.shape))
    return run(mixed.view(x.shape) + placed)


def partial_attention(run, x):
    kept, x = run(x).chunk(2, -1)
    x = x + attend(run, x)
    x = x + run(run(x))
    return run(torch.cat([kept, x], -1))


def large_kernel(run, x):
    first, last = run(x).chunk(2, -1)
    inner = last
    for _ in range(5):
        inner = run(inner)
    return run(torch.cat([first, last, last + inner], -1))


def head(run, x):
    bins = run(run(run(x)))
    return bins, run(run(run(run(run(x)))))


def doubled(x):
    return x.repeat_interleave(2, 1).repeat_interleave(2, 2)


def features(images, run):
    """What the head sees, at three strides: logits of the box distances and of the classes."""
    x = split(run, run(run(images)), 1, True)
    third = split(run, run(x), 2, True)
    fourth = split(run, run(run(third)), 2, True)
    fifth = partial_attention(run, pools(run, split(run, run(run(fourth)), 1, True)))
    middle = split(run, torch.cat([doubled(fifth), fourth], -1), 1, False)
    small = split(run, torch.cat([doubled(middle), third], -1), 1, False)
    medium = split(run, torch.cat([run(small), middle], -1), 1, False)
    large = large_kernel(run, torch.cat([run(run(medium)), fifth], -1))
    heads = [head(run, x) for x in (small, medium, large)]
    bins, classes = (torch.cat([part[which].flatten(1, 2) for part in heads], 1) for which in (0, 1))
    return bins, classes


def anchors(side, like):
    """Centres of all cells, in cells, and their strides."""
    centres, strides = [], []
    for stride in STRIDES:
        cells = torch.arange(side // stride, dtype=like.dtype, device=like.device) + 0.5
        rows, columns = cells[:, None].expand(-1, len(cells)), cells[None].expand(len(cells), -1)
        centres.append(torch.stack([columns, rows], -1).view(-1, 2))
        strides.append(torch.full((len(cells) ** 2,), stride, dtype=like.dtype, device=like.device))
    return torch.cat(centres), torch.cat(strides)


def yolov10n(detections, scores, images, parameters):
    bins, classes = features(images, runner(parameters))
    centres, strides = anchors(images.shape[1], bins)
    boxes = bins.new_empty(*bins.shape[:2], 4)
    box_decode(boxes, bins.view(*bins.shape[:2], 4, BINS), centres, strides)
    best, kind = classes.max(-1)
    scores.copy_(best)
    top, places = best.topk(min(KEPT, best.shape[1]), dim=1)
    chosen = boxes.gather(1, places[..., None].expand(-1, -1, 4))
    detections.copy_(torch.cat([chosen, top.sigmoid()[..., None], kind.gather(1, places)[..., None].to(chosen.dtype)], -1))
