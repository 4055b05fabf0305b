"""The run lengths of Label Studio's brush labels, which are those of thi.ng's package `rle-pack`."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

_HEADER = 32 + 5 + 4 * 4
"""Bits before the runs: the number of values, the bits of a value, and four numbers of bits of a length."""
_CHANNELS = 4
"""Values of a pixel; the last one, alpha, is above 0 in the object."""
_LENGTHS = (4, 8, 12, 16)
"""Bits of a run's length that are written."""


def decode_brush(rle: Any, size: tuple[int, int]) -> NDArray[np.bool_]:
    """Return the pixels of a brush label, `(H, W)`.

    The bits are a header, then runs: one bit for a repeated value, two bits that choose the length's number of bits,
    the length less one, and the value once, or each value.

    Args:
        rle: bytes, as a list of numbers.
        size: height and width of the image in pixels.

    Raises:
        ValueError: they are no bytes, end too early, or are of another size.
    """
    height, width = size
    if not isinstance(rle, list) or not all(isinstance(byte, int) and 0 <= byte < 256 for byte in rle):
        raise ValueError("run lengths that are no bytes")
    bits = np.unpackbits(np.array(rle, dtype=np.uint8))
    reader = _Reader("".join(map(str, bits.tolist())))
    if len(bits) < _HEADER or (count := reader.read(32)) != height * width * _CHANNELS:
        raise ValueError(f"run lengths that do not make {height} x {width} pixels")
    bits_of_value = reader.read(5) + 1
    bits_of_length = [reader.read(4) + 1 for _ in range(4)]
    values: NDArray[Any] = np.zeros(count, dtype=np.uint8 if bits_of_value <= 8 else np.uint32)
    position = 0
    while position < count:
        is_run = reader.read(1)
        end = position + 1 + reader.read(bits_of_length[reader.read(2)])
        if is_run:
            values[position:end] = reader.read(bits_of_value)
        else:
            run = [reader.read(bits_of_value) for _ in range(min(end, count) - position)]
            values[position : position + len(run)] = run
        position = end
    return np.asarray(values.reshape(height, width, _CHANNELS)[:, :, -1] > 0)


def encode_brush(mask: NDArray[np.bool_]) -> list[int]:
    """Return the brush label of a mask `(H, W)`, as `decode_brush` reads it: runs of 0 and 255 in all four values."""
    values = np.repeat(np.asarray(mask).ravel(), _CHANNELS)
    edges = np.flatnonzero(np.diff(values)) + 1
    starts, ends = np.concatenate(([0], edges)), np.concatenate((edges, [values.size]))
    longest = 1 << _LENGTHS[-1]
    bits = [f"{values.size:032b}", f"{8 - 1:05b}", *(f"{length - 1:04b}" for length in _LENGTHS)]
    for start, end in zip(starts.tolist(), ends.tolist(), strict=True):
        value = "11111111" if values[start] else "00000000"
        for first in range(start, end, longest):
            length = min(longest, end - first) - 1
            choice = next(i for i, count in enumerate(_LENGTHS) if length < 1 << count)
            bits.append(f"1{choice:02b}{length:0{_LENGTHS[choice]}b}{value}")
    text = "".join(bits)
    packed = np.packbits(np.frombuffer(text.encode(), dtype=np.uint8) - ord("0"))
    return [int(byte) for byte in packed]


class _Reader:
    """Reads numbers of some bits, one after another."""

    def __init__(self, bits: str) -> None:
        self.bits, self.position = bits, 0

    def read(self, count: int) -> int:
        """Return the number in the next `count` bits; raises ValueError if there are fewer."""
        end = self.position + count
        if end > len(self.bits):
            raise ValueError("run lengths that end too early")
        number = int(self.bits[self.position : end], 2)
        self.position = end
        return number
