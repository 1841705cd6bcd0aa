"""Buffers that are given in bytes."""

from bench.errors import UserError


def length(num_bytes: int, dtype: str, dtype_bytes: int) -> int:
    """Elements of a buffer. Raises UserError where they are not whole."""
    if num_bytes % dtype_bytes:
        raise UserError(f"num_bytes={num_bytes}: no multiple of {dtype_bytes}, the bytes of {dtype}")
    return num_bytes // dtype_bytes
