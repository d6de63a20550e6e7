"""Result rows: JSON lines that carry everything needed to trust or repeat a number, and the table made of them."""

from __future__ import annotations

import errno
import hashlib
import json
import os
import platform
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from specfm.errors import SpecfmError
from specfm.files import atomic_write_bytes

if TYPE_CHECKING:
    from rich.table import Table

FORMAT = "specfm-result-1"
KEYS: dict[str, type | tuple[type, ...]] = {  # what every row holds, whatever wrote it
    "data": str, "split": str, "leaky": bool, "shots": (int, type(None)), "window": int, "leakage": dict,
    "classes": list, "samples": dict, "notices": list, "digests": dict, "versions": dict, "method": str,
    "protocol": str, "seen": str, "per_class": dict, "confusion": list, "held_out": dict, "runs": dict, "alarms": list,
    "oa": dict, "aa": dict, "kappa": dict,
}  # fmt: skip
VOLATILE = ("time", "wall_s", "versions", "hardware")  # what may differ between two runs that agree


def digest_json(value: Any) -> str:
    """16 hex digits of a JSON-safe value, whatever the order of its keys."""
    return hashlib.sha256(json.dumps(value, sort_keys=True).encode()).hexdigest()[:16]


def state_digest(encoder: Any) -> str:
    """16 hex digits over weights, config and library of an encoder: names the checkpoint whatever folder it is from."""
    h = hashlib.sha256(json.dumps(getattr(encoder, "config", {}) or {}, sort_keys=True, default=str).encode())
    state = encoder.state_dict() if hasattr(encoder, "state_dict") else {}
    for name in sorted(state):
        tensor = state[name].detach().cpu().contiguous()
        h.update(f"{name}{tuple(tensor.shape)}{tensor.dtype}".encode())
        h.update(tensor.float().numpy().tobytes())
    library = getattr(encoder, "library", None)
    h.update(library.digest.encode() if library is not None else b"")
    return h.hexdigest()[:16]


def architecture_digest(encoder: Any) -> str:
    """16 hex digits over the config of an encoder, without its weights."""
    return digest_json(json.loads(json.dumps(getattr(encoder, "config", {}), default=str)))


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
            row = json.loads(line)
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


def _short(value: float) -> str:
    return f"{value:.3f}".replace("0.", ".", 1) if abs(value) < 1 else f"{value:.3f}"


def points(cell: Mapping[str, Any] | None) -> str:
    """``.812 ±.031`` of a metric cell."""
    if not cell or cell.get("mean") is None:
        return "-"
    return f"{_short(cell['mean'])} ±{_short(cell['sd'])}"


def interval(cell: Mapping[str, Any] | None) -> str:
    """``.770-.851`` or "-" where there are too few units."""
    ci = (cell or {}).get("ci")
    return f"{_short(ci[0])}-{_short(ci[1])}" if ci and ci[0] is not None else "-"


def leak_mark(row: Mapping[str, Any]) -> str:
    """One cell that says how leaky the split is: share of overlapping test windows, least distance, near-duplicates."""
    leak = row["leakage"]
    text = f"{100 * leak['overlap_share']:.0f} %"
    if leak["min_distance_px"] is not None:
        text += f", {leak['min_distance_px']:.0f} px"
    if leak["near_duplicate_share"]:
        text += f", dup {100 * leak['near_duplicate_share']:.1f} %"
    return text + (" LEAKY" if row["leaky"] else "")


def leakage_of(rows: Iterable[Mapping[str, Any]]) -> str:
    """For the title of a table without a column of it: the leakage of its rows, each value once."""
    return "leakage " + "; ".join(dict.fromkeys(map(leak_mark, rows)))


def heading(row: Mapping[str, Any]) -> str:
    """What the rows of one table share, in one line."""
    shots = f", {row['shots']} shots a class" if row.get("shots") else ""
    tested = f", tested on {row['condition']!r}" if row.get("condition") else ""
    sizes, splits = row["samples"], row["runs"]["splits"]
    return (
        f"{row['data']}{tested}: split by {row['split']}{shots}, window {row['window']} px, "
        f"{len(row['classes'])} classes, {splits} splits of {sizes['train']} / {sizes['val']} / {sizes['test']} samples"
    )


def remarks(rows: Iterable[Mapping[str, Any]]) -> list[str]:
    """Notices and alarms of a table's rows, one sentence each, the rows of one alarm put together."""
    lines: dict[str, list[str]] = {}
    notices: dict[str, None] = {}
    total = 0
    for row in rows:
        total += row["method"] != "majority class"
        notices.update(dict.fromkeys(row["notices"]))
        for alarm in row["alarms"]:
            where = f"{row['method']} {row['protocol']}" + (f" ({row['condition']})" if row.get("condition") else "")
            lines.setdefault(alarm, []).append(where)
    alarms = [f"alarm: {k} ({'all rows' if len(v) == total else ', '.join(v)})" for k, v in lines.items()]
    return [f"notice: {n}" for n in notices] + alarms


def table(rows: list[dict[str, Any]], title: str | None = None, width: int = 80) -> Table:
    """The rows as a rich table; print ``heading`` above it and ``remarks`` below.

    Leakage is the share of test windows that overlap a training window, the least distance in pixels of a test to a
    training pixel, and the share of near-duplicates. Deviations of AA and kappa are shown from 100 columns on.
    """
    from rich import box
    from rich.table import Table

    out = Table(title=title, title_justify="left", box=box.SIMPLE_HEAD, padding=(0, 1, 0, 0))
    for name in ("method", "probe", "OA", "95 % CI", "AA", "kappa", "seen", "leakage"):
        folds = name in ("method", "seen", "leakage")
        out.add_column(name, no_wrap=not folds, overflow="fold", min_width=7 if folds else None)
    cell = points if width >= 100 else lambda c: _short(c["mean"])
    for row in rows:
        out.add_row(
            row["method"], row["protocol"], points(row["oa"]), interval(row["oa"]),
            cell(row["aa"]), cell(row["kappa"]), row["seen"], leak_mark(row),
        )  # fmt: skip
    return out


def tables(rows: list[dict[str, Any]]) -> list[list[dict[str, Any]]]:
    """Rows that share a heading (data, split, shots) put together, in the order they come."""
    found: dict[str, list[dict[str, Any]]] = {}
    for row in rows:
        found.setdefault(heading(row), []).append(row)
    return list(found.values())


def shots_table(rows: list[dict[str, Any]], metric: str = "aa") -> Table:
    """One line per method and protocol, one column per number of labels: the few-shot table."""
    from rich import box
    from rich.table import Table

    shots = sorted({row["shots"] or 0 for row in rows})
    title = f"{metric.upper()} by labels a class, {leakage_of(rows)}"
    out = Table(title=title, title_justify="left", box=box.SIMPLE_HEAD, padding=(0, 1, 0, 0))
    for name in ("method", "probe", *(f"{n} labels" if n else "all labels" for n in shots)):
        out.add_column(name, overflow="fold")
    cells: dict[tuple[str, str], dict[int, str]] = {}
    for row in rows:
        cells.setdefault((row["method"], row["protocol"]), {})[row["shots"] or 0] = points(row[metric])
    for (method, protocol), by_shots in cells.items():
        out.add_row(method, protocol, *(by_shots.get(n, "-") for n in shots))
    return out


def held_out_table(rows: list[dict[str, Any]], metric: str = "aa") -> Table | None:
    """One column per scene or sensor that was left out, or None under other rules; at most eight columns."""
    from rich import box
    from rich.table import Table

    names = list(dict.fromkeys(name for row in rows for name in row.get("held_out", {})))
    if not names or len(names) > 8:
        return None
    title = f"{metric.upper()} by {rows[0]['split']} left out, {leakage_of(rows)}"
    out = Table(title=title, title_justify="left", box=box.SIMPLE_HEAD, padding=(0, 1, 0, 0))
    for name in ("method", "probe", *names):
        out.add_column(name, overflow="fold")
    for row in rows:
        cells = (row["held_out"].get(name) for name in names)
        out.add_row(row["method"], row["protocol"], *(_short(cell[metric]) if cell else "-" for cell in cells))
    return out
