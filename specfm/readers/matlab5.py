"""How MATLAB v5 really stores a variable, found without unpacking it.

A double array of whole numbers is written in the smallest integer type that holds it, and that is the type the numbers
come back in; the file's table of contents only says "double". Source: MathWorks, MAT-File Format (level 5).
"""

from __future__ import annotations

import struct
import zlib
from pathlib import Path

TYPES = {1: "i1", 2: "u1", 3: "i2", 4: "u2", 5: "i4", 6: "u4", 7: "f4", 9: "f8", 12: "i8", 13: "u8"}
_MATRIX, _COMPRESSED = 14, 15
_HEADER, _HEAD_BYTES = 128, 4096  # flags, shape and name of a variable lie in its first bytes


def stored_type(path: Path, variable: str) -> str | None:
    """Type code (``u2`` ...) of a real numeric variable; None for a complex one or where the stream is odd."""
    try:
        with path.open("rb") as handle:
            order = "<" if handle.read(_HEADER)[126:128] == b"IM" else ">"
            while len(tag := handle.read(8)) == 8:
                kind, size = struct.unpack(f"{order}II", tag)
                start = handle.tell()
                head = handle.read(min(size, 4 * _HEAD_BYTES))
                if kind == _COMPRESSED:
                    head = zlib.decompressobj().decompress(head, _HEAD_BYTES)
                    kind, head = struct.unpack_from(f"{order}I", head)[0], head[8:]
                if kind == _MATRIX:
                    name, complex_, code = _describe(head, order)
                    if name == variable:
                        return None if complex_ else TYPES.get(code)
                handle.seek(start + size)
    except (struct.error, zlib.error, UnicodeDecodeError):
        return None
    return None


def _describe(head: bytes, order: str) -> tuple[str, bool, int]:
    """(name, is complex, type code of the real part) from the beginning of a matrix element."""
    flags = struct.unpack_from(f"{order}I", head, 8)[0]
    _, _, at = _element(head, 0, order)  # array flags
    _, _, at = _element(head, at, order)  # dimensions
    _, name, at = _element(head, at, order)
    code, _, _ = _element(head, at, order)
    return name.decode("latin-1"), bool(flags & 0x0800), code


def _element(head: bytes, at: int, order: str) -> tuple[int, bytes, int]:
    """(type code, data as far as they are here, where the next element begins)."""
    code, size = struct.unpack_from(f"{order}II", head, at)
    if code >> 16:  # at most four bytes are packed into the tag itself
        size, code = code >> 16, code & 0xFFFF
        return code, head[at + 4 : at + 4 + size], at + 8
    return code, head[at + 8 : at + 8 + size], at + 8 + -(-size // 8) * 8
