"""The norm that a model has, in every place where it has one."""

from torch import nn

from bench.model import Model


def norm(model: Model, *size: int) -> nn.Module:
    """Over the last dimensions, which are of `size`."""
    if model.norm == "layer_norm":
        return nn.LayerNorm(size, eps=model.norm_eps, bias=model.norm_bias)
    return nn.RMSNorm(size, eps=model.norm_eps)
