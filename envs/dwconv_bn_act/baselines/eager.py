"""PyTorch's grouped convolution (cuDNN, oneDNN) on the channels-last format, and the activation."""

import torch


def dwconv_bn_act(out, input, weight, bias, stride, padding, activation):
    images = input.permute(0, 3, 1, 2)
    y = torch.nn.functional.conv2d(images, weight.unsqueeze(1), bias, stride, padding, groups=weight.shape[0])
    if activation == 2:
        y = torch.nn.functional.silu(y)
    elif activation == 1:
        y = torch.nn.functional.relu(y)
    out.copy_(y.permute(0, 2, 3, 1))
