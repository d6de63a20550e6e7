"""What specfm wrote itself, told from scenes: shards, encoders and models, runs, results; in a few facts each."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from specfm.errors import SpecfmError

RESULTS = (".jsonl", ".json")


def recognise(path: Path) -> dict[str, Any] | None:
    """JSON-safe facts with their ``kind``; None where a path is nothing of that.

    Raises:
        SpecfmError: it is, and it is damaged.
    """
    if len(path.parts) == 1 and not path.suffix and not path.exists():
        from specfm.checkpoint import shipped_encoders

        return _model(path) if path.name in shipped_encoders() else None
    if path.is_dir():
        if (path / "manifest.json").is_file():
            return _shards(path)
        if any((path / name).exists() for name in ("model.safetensors", "model", "checkpoints")):
            return _model(path)
        return None
    if path.suffix.lower() in RESULTS and path.is_file():
        return _results(path)
    if path.suffix.lower() == ".onnx" and path.is_file():
        return _exported(path)
    return _shards(path) if path.is_file() and _is_shard(path) else None


def text(facts: dict[str, Any]) -> str:
    """The facts as text, one a line."""
    lines = [f"{facts['path']}: {facts['kind']}"]
    for name, value in facts.items():
        if name in ("path", "kind") or value in (None, "", [], {}):
            continue
        items = [str(each) for each in value] if isinstance(value, list) else [str(value)]
        short = sum(map(len, items)) < 90
        for number, shown in enumerate([", ".join(items)] if short else items):
            lines.append(f"  {'' if number else name.replace('_', ' '):<13} {shown}")
    return "\n".join(lines)


def _is_shard(path: Path) -> bool:
    from specfm.hdf5 import open_hdf5
    from specfm.shards import schema

    with path.open("rb") as handle:
        if handle.read(8) != b"\x89HDF\r\n\x1a\n":
            return False
    try:
        with open_hdf5(path) as file:
            return file.attrs.get("format") in (schema.FORMAT, schema.FORMAT.encode())
    except (OSError, RuntimeError, SpecfmError):
        return False


def _shards(path: Path) -> dict[str, Any]:
    from specfm.shards import ShardSet

    store = ShardSet(path, verify="off")
    parts = []
    for reader in store.readers:
        bands, (samples, height, width, count) = reader.sensor.bands, reader.shape
        low, high = (float(f(bands.wavelengths_nm[bands.valid])) for f in (min, max))
        labelled = int((reader.label_N >= 0).sum())
        parts.append(
            f"{reader.path.name}: domain {reader.domain}, sensor {reader.sensor.name or 'without a name'}, {samples} "
            f"windows of {height} x {width}, {count} bands ({low:.0f}-{high:.0f} nm), {len(reader.scene_names)} scenes"
            + (f", {labelled} labelled" if labelled else "")
        )
    return {
        "path": str(path), "kind": "shards" if path.is_dir() else "a shard", "samples": len(store),
        "domains": store.domain_names, "fingerprint": store.fingerprint[:16], "shards": parts,
        "next": f"specfm verify {path}, or specfm pretrain CONFIG data.shards={path}",
    }  # fmt: skip


def _model(path: Path) -> dict[str, Any]:
    from specfm.checkpoint import find_release

    folder = find_release(path)
    config, card = (_object(folder / name) for name in ("config.json", "card.json"))
    encoder = config.get("encoder") or {}
    run = f"{folder.relative_to(path)} of a run" if path.is_dir() and folder != path else None
    known = {
        name: encoder.get(name)
        for name in ("size", "embedding", "patch_size", "dim", "depth", "heads", "backbone")
        if encoder.get(name) is not None
    }
    head = config.get("task") or {}
    task = head.get("task")
    return {
        "path": str(path),
        "kind": "an encoder" if task is None else f"a model for {task}",
        "model": run,
        "encoder": [f"{name} {value}" for name, value in known.items()],
        "weights": f"{(folder / 'model.safetensors').stat().st_size / 1e6:.3g} MB",
        "pretrained_on": card.get("domains"),
        "steps": card.get("steps"),
        "window": card.get("window"),
        "classes": head.get("label_names"),
        "fitted": [each.get("name") for each in (card.get("fitted") or {}).get("scenes", [])],
        "readme": str(folder / "README.md"),
        "next": f"specfm probe {path} --data CARD" if task is None else f"specfm predict {path} SCENE --out map.tif",
    }


def _exported(path: Path) -> dict[str, Any]:
    from specfm.deploy.runtime import Deployed

    facts = Deployed(path).facts
    spans = []
    for sensor in facts.sensors:
        nm = sensor.bands.wavelengths_nm[sensor.bands.valid]
        spans.append(f"{len(sensor.bands)} ({nm.min():.0f}-{nm.max():.0f} nm)")
    encoder = facts.kind == "encoder"
    last = "--out features.npy" if encoder else "AFTER --out map.tif" if facts.kind == "change" else "--out map.tif"
    return {
        "path": str(path), "kind": f"an exported {'encoder' if encoder else f'model for {facts.kind}'}",
        "bands": spans or "any, given with the pixels",
        "input": [f"stored * {s.scale:g} + {s.offset:g} = {s.quantity or 'values'}" for s in facts.sensors],
        "tile": facts.tile, "level": facts.level, "precision": facts.precision, "classes": list(facts.classes),
        "made_of": facts.weights, "without_content": facts.student or None, "next": f"specfm run {path} SCENE {last}",
    }  # fmt: skip


def _object(path: Path) -> dict[str, Any]:
    from specfm.documents import read_json

    try:
        value = read_json(path)
    except (OSError, ValueError) as error:
        raise SpecfmError(f"{path} cannot be read ({error})") from None
    return value if isinstance(value, dict) else {}


def _results(path: Path) -> dict[str, Any] | None:
    from specfm.documents import parse_json

    first = next((line for line in path.read_bytes().split(b"\n") if line.strip()), b"")
    try:
        row = parse_json(first, path)
    except ValueError:
        return None
    if not isinstance(row, dict) or "protocol" not in row or "method" not in row:
        return None
    from downstream.results.files import read_rows

    rows = read_rows(path)

    def of(key: str) -> list[str]:
        return list(dict.fromkeys(str(each[key]) for each in rows if each.get(key) is not None))

    return {
        "path": str(path), "kind": "results", "rows": len(rows), "data": of("data"), "methods": of("method"),
        "protocols": of("protocol"), "splits": of("split"), "best": _best(rows),
        "next": f"specfm report {path}",
    }  # fmt: skip


def _best(rows: Sequence[dict[str, Any]]) -> list[str]:
    """Of each data set the row of the highest AA."""
    best: dict[str, dict[str, Any]] = {}
    for row in rows:
        mean = (row.get("aa") or {}).get("mean")
        if mean is not None and mean > ((best.get(str(row.get("data"))) or {}).get("aa") or {}).get("mean", -1.0):
            best[str(row.get("data"))] = row
    return [f"{data}: {row['method']}, {row['protocol']}, AA {row['aa']['mean']:.3f}" for data, row in best.items()]
