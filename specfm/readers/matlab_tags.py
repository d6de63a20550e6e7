"""Tags of a MATLAB v5 file, looked at before scipy follows them: one of an unknown type ends the process there.

A file is a header of 128 bytes and one element a variable; an element is a tag (type, bytes) and its data, padded to 8
bytes; a variable is an element of elements, often compressed as a whole. Format: "MAT-File Format", MathWorks, chapter
1.
"""

from __future__ import annotations

import struct
import zlib
from pathlib import Path
from typing import IO, Protocol

from specfm.errors import SpecfmError

HEADER = 128
MATRIX, COMPRESSED = 14, 15
SIMPLE = frozenset({1, 2, 3, 4, 5, 6, 7, 9, 12, 13, 16, 17, 18})  # integers, floats and text
NUMERIC = range(6, 16)  # classes of arrays that are one block of numbers
COMPLEX = 0x800  # flag
DEEPEST = 32
CHUNK = 1 << 16


class _Stream(Protocol):
    def read(self, count: int) -> bytes: ...


class _Inflated:
    """What a compressed element holds, from its start on, a piece at a time."""

    def __init__(self, file: IO[bytes], count: int) -> None:
        self._file, self._left, self._zlib = file, count, zlib.decompressobj()

    def read(self, count: int) -> bytes:
        got = b""
        while len(got) < count and not self._zlib.eof:
            fed = self._zlib.unconsumed_tail
            if not fed:
                fed = self._file.read(min(CHUNK, self._left))
                self._left -= len(fed)
                if not fed:
                    break
            got += self._zlib.decompress(fed, count - len(got))
        return got


def check_tags(path: Path) -> None:
    """Walk over all variables, and of those that hold others (structs, cells) over all within them.

    Raises:
        SpecfmError: a tag that no such file has; the file is damaged.
    """
    size = path.stat().st_size
    try:
        with path.open("rb") as file:
            order = {b"IM": "<", b"MI": ">"}.get(file.read(HEADER)[126:128], "")
            if not order:  # of version 4, which has no tags
                return
            place = HEADER
            while place + 8 <= size:
                file.seek(place)
                kind, count = struct.unpack(f"{order}2I", file.read(8))
                if kind == COMPRESSED:
                    inside = _Inflated(file, count)
                    kind, within, _ = _tag(inside, order)
                    if kind == MATRIX:
                        _walk(inside, within, order, 0)
                elif kind == MATRIX:
                    _walk(file, count, order, 0)
                place += 8 + count
    except (zlib.error, struct.error, ValueError) as error:
        raise SpecfmError(
            f"{path}: not a readable MATLAB file ({error}); it was cut short or damaged, copy it again"
        ) from None


def _tag(stream: _Stream, order: str) -> tuple[int, int, int]:
    """Type, bytes and bytes still to be read of an element; small ones have their data within the tag."""
    [first] = struct.unpack(f"{order}I", stream.read(4))
    if first >> 16:
        stream.read(4)
        return first & 0xFFFF, first >> 16, 0
    [count] = struct.unpack(f"{order}I", stream.read(4))
    return first, count, count + -count % 8


def _walk(stream: _Stream, count: int, order: str, depth: int) -> None:
    """The elements of a variable of so many bytes; an array of numbers is left before its (real) numbers."""
    if depth > DEEPEST:
        raise ValueError(f"structs deeper than {DEEPEST}")
    if count == 0:
        return
    kind, size, left = _tag(stream, order)
    if kind not in SIMPLE or size != 8:
        raise ValueError(f"an array begins with a tag of type {kind}")
    flags = struct.unpack(f"{order}2I", stream.read(8))[0]
    done, number = 16, 1
    while done < count:
        kind, size, left = _tag(stream, order)
        done += 8 + (size if kind == MATRIX else left)
        number += 1
        if kind == MATRIX:
            _walk(stream, size, order, depth + 1)
        elif kind not in SIMPLE:
            raise ValueError(f"a tag of unknown type {kind}")
        else:
            if number == 4 and flags & 0xFF in NUMERIC and not flags & COMPLEX and depth == 0:
                return
            _skip(stream, left)


def _skip(stream: _Stream, count: int) -> None:
    while count > 0:
        got = len(stream.read(min(CHUNK, count)))
        if not got:
            raise ValueError("it ends within an array")
        count -= got
