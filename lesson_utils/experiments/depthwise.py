"""Depthwise convolutions that can be differentiated twice in good time.

A convolution is linear in the image x and in the kernel w. With ⟨u, x ∗ w⟩ for an output
gradient u, all derivatives that the penalty needs are again convolutions: ∂/∂x, ∂/∂w, and of
∂/∂x those by u and w. PyTorch computes the last of them channel by channel, which makes a
penalised step of a network with depthwise convolutions 1.6 times as long on a CPU.
"""

from __future__ import annotations

import torch
from torch.autograd import Function
from torch.overrides import TorchFunctionMode


def _by_image_and_kernel(u, x, w, how, wanted):
    stride, padding, dilation, groups = how
    backward = torch.ops.aten.convolution_backward
    return backward(
        u, x, w, None, stride, padding, dilation, False, (0, 0), groups, (*wanted, False)
    )


class _Convolution(Function):
    """x ∗ w."""

    @staticmethod
    def forward(ctx, x, w, how):
        ctx.save_for_backward(x, w)
        ctx.how = how
        return torch.conv2d(x, w, None, *how)

    @staticmethod
    def backward(ctx, u):
        x, w = ctx.saved_tensors
        if torch.is_grad_enabled():  # of the gradient by x, a derivative will be asked for
            return _ImageGradient.apply(u, w, x.detach(), ctx.how), None, None
        wanted = ctx.needs_input_grad[:2]
        return *_by_image_and_kernel(u, x, w, ctx.how, wanted)[:2], None


class _ImageGradient(Function):
    """The gradient of ⟨u, x ∗ w⟩ by x, a function of u and w."""

    @staticmethod
    def forward(ctx, u, w, x, how):
        ctx.save_for_backward(u, w)
        ctx.how = how
        return _by_image_and_kernel(u, x, w, how, (True, False))[0]

    @staticmethod
    def backward(ctx, v):
        u, w = ctx.saved_tensors
        by_kernel = _by_image_and_kernel(u, v, w, ctx.how, (False, True))[1]
        return torch.conv2d(v, w, None, *ctx.how), by_kernel, None, None


class DepthwiseTwice(TorchFunctionMode):
    """Within this context depthwise convolutions without bias are those of this file.

    For the gradient of a penalty on input gradients: a derivative by the weights, with a graph
    that is to be differentiated once more, is not offered and comes out as None.
    """

    def __torch_function__(self, func, types, args=(), kwargs=None):
        if func is not torch.conv2d or kwargs or len(args) != 7:
            return func(*args, **(kwargs or {}))
        x, w, bias, stride, padding, dilation, groups = args
        pairs = all(isinstance(pair, tuple) for pair in (stride, padding, dilation))
        if bias is not None or not pairs or w.shape[1] != 1 or groups == 1:
            return func(*args)
        return _Convolution.apply(x, w, (stride, padding, dilation, groups))
