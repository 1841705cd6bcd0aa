"""Weights in 8 or 4 bits, activations as they are: what a decoding step reads shrinks, its arithmetic does not."""

from typing import TYPE_CHECKING, Any

from torch import Tensor, nn

from bench.device import Device
from bench.errors import Unsupported
from workloads._quantized import Bits, pack
from workloads.models.linears import linears

if TYPE_CHECKING:
    from workloads.models.transformer import Transformer


def quantize(transformer: "Transformer", bits: Bits, device: Device, batch: int, length: int) -> frozenset[str]:
    """Puts quantised layers in the place of linear ones, and of the head's unless it is the embedding too, for steps of
    `batch` sequences of `length` tokens.

    Gives the names of the kernels that they use. Left as they are: `latent_up`, which latent attention reads as a
    matrix for each head. Raises Unsupported for experts, whose grouped product torch does not have in these types.
    """
    if transformer.model.num_experts is not None:
        raise Unsupported(f"torch has no grouped product of {bits} weights, which experts would need")
    kernels = set()
    places: list[tuple[nn.Module, str, Any]] = [place for place in linears(transformer) if place[1] != "latent_up"]
    if type(transformer.head) is nn.Linear and not transformer.model.tie_word_embeddings:
        places.append((transformer, "head", transformer.head))
    for parent, name, linear in places:
        # The head takes the last token of each sequence alone.
        quantized = QuantizedLinear(linear, bits, batch if name == "head" else batch * length, device)
        setattr(parent, name, quantized)
        kernels.add(quantized.packed.kernel.name)
    device.release()
    return frozenset(kernels)


class QuantizedLinear(nn.Module):
    """A linear layer whose weight is kept in 8 or 4 bits. No gradient reaches the weight."""

    def __init__(self, linear: nn.Linear, bits: Bits, num_tokens: int, device: Device) -> None:
        super().__init__()
        self.bias = linear.bias
        self.packed = pack(linear.weight.detach(), bits, num_tokens, device)

    def forward(self, x: Tensor) -> Tensor:
        """[..., E] to [..., F]."""
        out = self.packed.multiply(x.flatten(0, -2)).view(*x.shape[:-1], -1)
        return out if self.bias is None else out + self.bias

    def wide_weight(self) -> Tensor:
        """The weight in float64 that the codes stand for, where the layer is; see reference.py."""
        return self.packed.wide().to(self.packed.tensors[0].device)
