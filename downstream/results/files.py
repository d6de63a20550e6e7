"""Result rows: JSON lines that carry everything needed to trust or repeat a number, and the table made of them."""

from __future__ import annotations

import errno
import json
import os
import platform
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from specfm.documents import parse_json
from specfm.errors import SpecfmError
from specfm.files import atomic_write_bytes

FORMAT = "specfm-result-1"
KEYS: dict[str, type | tuple[type, ...]] = {  # what every row holds, whatever wrote it
    "data": str, "split": str, "leaky": bool, "shots": (int, type(None)), "window": int, "leakage": dict,
    "classes": list, "samples": dict, "notices": list, "digests": dict, "versions": dict, "method": str,
    "protocol": str, "kind": str, "support": str, "seen": str, "per_class": dict, "confusion": list, "held_out": dict,
    "runs": dict, "alarms": list, "oa": dict, "aa": dict, "kappa": dict,
}  # fmt: skip
VOLATILE = ("time", "wall_s", "versions", "hardware")  # what may differ between two runs that agree


def versions() -> dict[str, str]:
    """Versions of what computes the numbers."""
    from importlib.metadata import PackageNotFoundError, version

    import specfm

    found = {"specfm": specfm.__version__, "python": platform.python_version()}
    for name in ("torch", "numpy", "scikit-learn", "timm"):
        try:
            found[name] = version(name)
        except PackageNotFoundError:
            continue
    return found


def hardware(device: Any = "cpu") -> str:
    """One line: architecture, cores, GPU name where one is used."""
    text = f"{platform.machine()}, {os.cpu_count()} cores"
    if "cuda" in str(device):
        import torch

        text += f", {torch.cuda.get_device_name(device)}"
    return text


def append_rows(path: str | Path, rows: Iterable[Mapping[str, Any]]) -> None:
    """Append rows to a JSON-lines file, each in one write, flushed: a killed run leaves whole lines behind.

    A last line that was cut short (a full disk) is ended first, so that it costs no row but itself.
    """
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    handle = os.open(path, os.O_RDWR | os.O_CREAT | os.O_APPEND, 0o644)
    try:
        size = os.fstat(handle).st_size
        cut_short = size > 0 and os.pread(handle, 1, size - 1) != b"\n"
        for number, row in enumerate(rows):
            line = _line(row) if number or not cut_short else b"\n" + _line(row)
            if os.write(handle, line) != len(line):
                raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), str(path))
        os.fsync(handle)
    finally:
        os.close(handle)


def write_rows(path: str | Path, rows: Iterable[Mapping[str, Any]]) -> None:
    """Write a whole JSON-lines file at once: it holds all rows, or does not appear."""
    atomic_write_bytes(path, b"".join(map(_line, rows)))


def _line(row: Mapping[str, Any]) -> bytes:
    return (json.dumps(row, sort_keys=True, allow_nan=False) + "\n").encode()


def read_rows(path: str | Path) -> list[dict[str, Any]]:
    """Rows of a results file.

    Raises:
        SpecfmError: missing file, or a line that is not a result row (named by number).
    """
    path = Path(path)
    if not path.is_file():
        raise SpecfmError(f"{path} does not exist; write one with: specfm probe CKPT --data CARD --out {path.name}")
    rows = []
    for number, line in enumerate(path.read_bytes().split(b"\n"), 1):
        if not line.strip():
            continue
        try:
            row = parse_json(line, path)
        except ValueError as exc:
            raise SpecfmError(f"{path} line {number} is not JSON ({exc}); remove that line") from exc
        if not isinstance(row, dict) or row.get("format") != FORMAT:
            raise SpecfmError(f"{path} line {number} is not a {FORMAT} row; remove that line")
        if wrong := [key for key, kinds in KEYS.items() if not isinstance(row.get(key), kinds)]:
            raise SpecfmError(f"{path} line {number} has no proper {', '.join(wrong[:3])}; remove that line")
        rows.append(row)
    return rows


def comparable(row: Mapping[str, Any]) -> dict[str, Any]:
    """A row without time, wall clock and machine: two runs that agree are equal here."""
    return {k: v for k, v in row.items() if k not in VOLATILE}
