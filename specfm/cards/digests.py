"""The digests of a dataset card: each of the very file it names, and none that would only look like a check."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from functools import lru_cache
from pathlib import Path
from typing import Annotated

from pydantic import StringConstraints

from specfm.errors import SpecfmError
from specfm.files import sha256_file

Digest = Annotated[str, StringConstraints(pattern=r"^[0-9a-f]{64}$", to_lower=True)]


def refuse_unread(card: str, files: Mapping[str, Path | None], opened: Iterable[Path]) -> None:
    """Refuse digests of files that a card does not read, and of an ENVI header without the cube it describes.

    Args:
        card: name of the card.
        files: key of ``sha256`` -> the file it names, None where there is none.
        opened: the files that the card's parts name.

    Raises:
        SpecfmError: such a digest; the message names the key.
    """
    pairs = [read_with(path) for path in opened]
    read = {file for pair in pairs for file in pair}
    pinned = {name: path and path.resolve() for name, path in files.items()}
    for name, file in pinned.items():
        if file not in read:
            raise SpecfmError(
                f"card {card}: sha256 names {name}, which no part reads; name a data file as its part does"
            )
    for cube, *headers in pairs:
        if cube not in pinned.values() and any(header in pinned.values() for header in headers):
            raise SpecfmError(f"card {card}: sha256 has {headers[0].name} but not the cube beside it; add {cube.name}")


def check_digests(card: str, digests: Mapping[Path, str], path: Path) -> None:
    """Compare the files that are read for one scene with what the card says of them, once per process and version.

    Raises:
        SpecfmError: a file differs.
    """
    known = {file.resolve(): digest for file, digest in digests.items()}
    for file in read_with(path) if known else ():
        if file in known and _digest(file, file.stat().st_mtime_ns) != known[file]:
            raise SpecfmError(f"card {card}: {file} is not the file the card describes (sha256 differs)")


def read_with(path: Path) -> tuple[Path, ...]:
    """The file that holds the numbers, then the ENVI header beside it, if there is one."""
    from specfm.readers.envi import find_data, find_header

    is_header = path.suffix.lower() == ".hdr"
    pair = (find_data(path), path) if is_header else (path, find_header(path))
    return tuple(file.resolve() for file in pair if file is not None)


@lru_cache(maxsize=256)
def _digest(path: Path, _modified: int) -> str:
    return sha256_file(path)
