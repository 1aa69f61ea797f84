"""PyTorch's convolution (cuDNN, oneDNN) on the channels-last format."""

import torch


def conv2d_nhwc(out, input, weight, bias, stride, padding):
    images, filters = input.permute(0, 3, 1, 2), weight.permute(0, 3, 1, 2)
    out.copy_(torch.nn.functional.conv2d(images, filters, bias, stride, padding).permute(0, 2, 3, 1))
