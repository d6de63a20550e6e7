"""Tags of a MATLAB v5 file, looked at before scipy follows them: one of an unknown type ends the process there.

A file is a header of 128 bytes and one element a variable; an element is a tag (type, bytes) and its data, padded to 8
bytes; a variable is an element of elements, often compressed as a whole. Format: "MAT-File Format", MathWorks, chapter
1.
"""

from __future__ import annotations

import math
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
CELL, STRUCT, OBJECT, CHAR, SPARSE = 1, 2, 3, 4, 5  # classes of arrays that have further parts
DEEPEST = 32
TOLD = 1 << 12  # bytes of an element that are looked at: sizes, lengths
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
                    kind, within, _, _ = _tag(inside, order)
                    if kind == MATRIX:
                        _walk(inside, within, order, 0)
                elif kind == MATRIX:
                    _walk(file, count, order, 0)
                place += 8 + count
    except (zlib.error, struct.error, ValueError) as error:
        raise SpecfmError(
            f"{path}: not a readable MATLAB file ({error}); it was cut short or damaged, copy it again"
        ) from None


def _tag(stream: _Stream, order: str) -> tuple[int, int, int, bytes]:
    """Type, bytes and bytes still to be read of an element; small ones have their data within the tag."""
    [first] = struct.unpack(f"{order}I", stream.read(4))
    if first >> 16:
        return first & 0xFFFF, first >> 16, 0, stream.read(4)
    [count] = struct.unpack(f"{order}I", stream.read(4))
    return first, count, count + -count % 8, b""


def _walk(stream: _Stream, count: int, order: str, depth: int) -> None:
    """The elements of a variable of so many bytes; an array of numbers is left before its (real) numbers."""
    if depth > DEEPEST:
        raise ValueError(f"structs deeper than {DEEPEST}")
    if count == 0:
        return
    kind, size, _, _ = _tag(stream, order)
    if kind not in SIMPLE or size != 8:
        raise ValueError(f"an array begins with a tag of type {kind}")
    flags = struct.unpack(f"{order}2I", stream.read(8))[0]
    plain = flags & 0xFF in NUMERIC and not flags & COMPLEX and depth == 0
    done, arrays = 16, 0
    simple = [(b"", 8)]  # of elements that are no variables: the first bytes, and how many there are
    while done < count:
        kind, size, left, held = _tag(stream, order)
        done += 8 + (size if kind == MATRIX else left)
        if kind == MATRIX:
            _walk(stream, size, order, depth + 1)
            arrays += 1
        elif kind not in SIMPLE:
            raise ValueError(f"a tag of unknown type {kind}")
        else:
            if plain and len(simple) == 3:
                return
            simple.append((held or _told(stream, left), size))
    _complete(flags, simple, arrays, order)


def _complete(flags: int, simple: list[tuple[bytes, int]], arrays: int, order: str) -> None:
    """Refuse a variable that has fewer elements than it says: scipy would look for the rest beyond its end.

    Args:
        flags: class and properties.
        simple: elements that are no variables: flags, sizes, name, then by class.
        arrays: elements that are variables themselves.
        order: of bytes.
    """
    kind, more = flags & 0xFF, int(bool(flags & COMPLEX))
    least = {CELL: 3, STRUCT: 5, OBJECT: 6, CHAR: 4, SPARSE: 6 + more}.get(kind, 4 + more if kind in NUMERIC else 0)
    if len(simple) < least:
        raise ValueError(f"an array of class {kind} has {len(simple)} of its {least} parts")
    if kind not in (CELL, STRUCT, OBJECT):
        return
    data, size = simple[1]
    count = min(len(data), size) // 4
    wanted = math.prod(struct.unpack(f"{order}{count}i", data[: 4 * count]))
    if kind != CELL:
        [length] = struct.unpack(f"{order}i", simple[least - 2][0][:4])
        if length <= 0:
            raise ValueError(f"names of fields have {length} characters")
        wanted *= simple[least - 1][1] // length
    if not 0 <= wanted <= arrays:
        raise ValueError(f"an array of class {kind} has {arrays} of its {wanted} elements")


def _told(stream: _Stream, count: int) -> bytes:
    """The first bytes of so many, which are all passed over."""
    found = stream.read(min(count, TOLD))
    _skip(stream, count - len(found))
    return found


def _skip(stream: _Stream, count: int) -> None:
    while count > 0:
        got = len(stream.read(min(CHUNK, count)))
        if not got:
            raise ValueError("it ends within an array")
        count -= got
