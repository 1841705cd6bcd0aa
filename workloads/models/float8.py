"""Linear layers in eight-bit floats, forward and backward, as training in FP8 has them (Micikevicius et al. 2022).

Names of tensors carry their dimensions: T tokens, E inputs, F outputs.
"""

from typing import Any

import torch
from torch import Tensor, nn

# The largest numbers of the two types: one with more digits for activations and weights, one with more range for
# gradients (Micikevicius et al. 2022, table 1).
_LARGEST = {torch.float8_e4m3fn: 448.0, torch.float8_e5m2: 57344.0}


def with_float8(transformer: nn.Module) -> None:
    """Puts a Float8Linear in the place of every linear layer of the blocks; the head stays as it is."""
    for block in transformer.blocks.modules():
        for name, layer in list(block.named_children()):
            if isinstance(layer, nn.Linear):
                setattr(block, name, Float8Linear(layer))


class Float8Linear(nn.Linear):
    """y = x @ W^T with both scaled to the range of FP8 by the largest number in them, summed and written wider."""

    def __init__(self, like: nn.Linear) -> None:
        nn.Module.__init__(self)
        self.in_features, self.out_features = like.in_features, like.out_features
        self.weight, self.bias = like.weight, like.bias

    def forward(self, x: Tensor) -> Tensor:
        """[..., E] to [..., F], in bfloat16."""
        y_TF: Tensor = _Product.apply(x.flatten(0, -2), self.weight)
        y = y_TF.unflatten(0, x.shape[:-1])
        return y if self.bias is None else y + self.bias.to(y.dtype)


class _Product(torch.autograd.Function):
    @staticmethod
    def forward(context: Any, x_TE: Tensor, weight_FE: Tensor) -> Tensor:
        x8_TE, x_scale = _narrow(x_TE, torch.float8_e4m3fn)
        weight8_FE, weight_scale = _narrow(weight_FE, torch.float8_e4m3fn)
        context.save_for_backward(x8_TE, x_scale, weight8_FE, weight_scale)
        context.dtypes = x_TE.dtype, weight_FE.dtype
        return _multiply(x8_TE, weight8_FE.T, x_scale, weight_scale)

    @staticmethod
    def backward(context: Any, gradient_TF: Tensor) -> tuple[Tensor, Tensor]:
        x8_TE, x_scale, weight8_FE, weight_scale = context.saved_tensors
        x_dtype, weight_dtype = context.dtypes
        gradient8_TF, scale = _narrow(gradient_TF, torch.float8_e5m2)
        x_gradient_TE = _multiply(gradient8_TF, _by_columns(weight8_FE), scale, weight_scale)
        weight_gradient_FE = _multiply(gradient8_TF.T.contiguous(), _by_columns(x8_TE), scale, x_scale)
        return x_gradient_TE.to(x_dtype), weight_gradient_FE.to(weight_dtype)


def _narrow(wide: Tensor, dtype: torch.dtype) -> tuple[Tensor, Tensor]:
    """The tensor in `dtype`, and the scale to multiply with to have it back."""
    scale = wide.abs().amax().float().clamp(min=1e-12) / _LARGEST[dtype]
    return (wide / scale).to(dtype), scale


def _by_columns(x: Tensor) -> Tensor:
    """The same with its columns contiguous, as the second factor must be."""
    return x.T.contiguous().T


def _multiply(left: Tensor, right: Tensor, left_scale: Tensor, right_scale: Tensor) -> Tensor:
    return torch._scaled_mm(
        left, right, scale_a=left_scale, scale_b=right_scale, out_dtype=torch.bfloat16, use_fast_accum=True
    )
