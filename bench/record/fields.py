"""What a field of a result file may hold: types, and the bounds beyond which a stranger's file is refused."""

from typing import Annotated

import msgspec
from msgspec import Meta

# No step is shorter than a picosecond or longer than eleven days: outside, rates and their logarithms overflow.
SHORTEST_S, LONGEST_S = 1e-12, 1e6

Text = Annotated[str, Meta(max_length=1_000)]
Name = Annotated[str, Meta(max_length=200)]
Count = Annotated[int, Meta(ge=0, le=2**53)]
Flops = Annotated[int, Meta(ge=0, le=2**63 - 1)]  # a training step of a large model passes 2**53
Number = Annotated[float, Meta(ge=-1e30, le=1e30)]
Amount = Annotated[float, Meta(ge=0, le=1e30)]
Fraction = Annotated[float, Meta(ge=0, le=1e6)]
Samples = Annotated[list[Amount], Meta(max_length=100_000)]
Texts = Annotated[dict[Name, Text], Meta(max_length=200)]
Parameters = Annotated[
    dict[Name, bool | Annotated[int, Meta(ge=-(2**53), le=2**53)] | Number | Name], Meta(max_length=50)
]


class Strict(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """A part of the file: fields are exactly these, of exactly these types."""
