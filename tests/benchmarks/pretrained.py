"""What benchmarks that pretrain share: their arguments, one pretraining on real scenes, the log of rows."""

from __future__ import annotations

import argparse
import json
import shutil
from collections.abc import Sequence
from pathlib import Path
from typing import Any

BASE = "pretrain/real_scenes.yaml"
START = ["steps=1", "optim.lr=1e-12", "optim.weight_decay=0"]  # the same encoder before its first step


def arguments(description: str | None, leave: str, steps: int, batch: int) -> argparse.ArgumentParser:
    """Those that all of them take, with the defaults that differ."""
    parser = argparse.ArgumentParser(description=description, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--shards", type=Path, required=True)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--leave", default=leave)
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--steps", type=int, default=steps)
    parser.add_argument("--batch", type=int, default=batch)
    parser.add_argument("--splits", type=int, default=10)
    return parser


def train(excluded: Sequence[str], seed: int, said: Sequence[str], given: argparse.Namespace) -> Path:
    """Folder of a pretraining without some domains: a stem per sensor, no brightness.

    Raises:
        SystemExit: it failed, and has said why, or was stopped.
    """
    from pretrain.__main__ import main as pretrain

    folder: Path = given.out / "run"
    shutil.rmtree(folder, ignore_errors=True)
    asked = [
        f"data.shards=[{given.shards}]", f"data.exclude=[{', '.join(excluded)}]", "data.weights={}",
        f"data.global_batch={given.batch}", f"out={folder}", f"seed={seed}", f"steps={given.steps}",
        "whiten={per: sensor}", "model.options.brightness=false", f"monitor.every={10 * given.steps}",
        f"checkpoint.every={10 * given.steps}",
    ]  # fmt: skip
    if code := pretrain([BASE, *asked, *said]):
        raise SystemExit(code)
    if not (folder / "model").exists():
        raise SystemExit("stopped before the end; the same call goes on with this run")
    return folder


def lines(path: Path) -> list[dict[str, Any]]:
    """Rows of a file of JSON lines; none where there is no file."""
    return [json.loads(line) for line in path.read_text().splitlines()] if path.exists() else []
