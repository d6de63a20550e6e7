"""One cell of a benchmark: a dataset with an encoder (frozen or trained), its untrained twins or the baselines, a file.

A cell holds the result rows and, for paired comparisons, the confusion counts of every run and resampling unit. It
appears by rename, so that a killed benchmark leaves whole cells behind, and is computed in one thread, so that its
numbers do not depend on how many cells are computed at once.

Shape suffixes: A initialisations, S splits, U resampling units, K classes.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np

from downstream.benchmark.suite import DatasetConfig, SuiteConfig, open_dataset, probe_options
from downstream.features.bank import Bank, code_digest
from downstream.features.encoders import open_encoder
from downstream.probe.run import probe
from downstream.results.runs import Runs
from specfm.config import to_dict
from specfm.digests import architecture_digest, digest_json, state_digest
from specfm.documents import read_json
from specfm.errors import SpecfmError
from specfm.files import atomic_write_json

FORMAT = "specfm-cell-1"
WITH_WEIGHTS = ("encoder", "finetune")  # parts whose numbers depend on an encoder's weights


@dataclass(frozen=True)
class CellPlan:
    """What one cell computes.

    Attributes:
        suite: what is asked for of all.
        dataset: what is asked for of this one.
        part: of ``downstream.probe.run.PARTS``.
        method: name of the encoder, or of what was made of its architecture, in the table; "baselines" for those.
        checkpoint: what ``open_encoder`` takes, or ``load_peer``; None for the baselines.
        weights: digest of the encoder's weights and config.
        architecture: digest of its config alone.
        cards: digest of the dataset cards' text.
        window: side of the window, pixels.
        device: where it is computed; changes no number.
        cache: where features are kept (None = nowhere); changes no number.
    """

    suite: SuiteConfig
    dataset: DatasetConfig
    part: str
    method: str
    checkpoint: str | None
    weights: str
    architecture: str
    cards: str
    window: int
    device: str = "cpu"
    cache: str | None = None

    @property
    def title(self) -> str:
        """For messages."""
        return f"{self.dataset.title} x {self.method}"

    @property
    def file_name(self) -> str:
        """Readable, and different for names that differ only in odd characters."""
        slug = re.sub(r"[^A-Za-z0-9_.+-]+", "_", f"{self.dataset.title}--{self.method}")[:120]
        return f"{slug}-{digest_json([self.dataset.title, self.part, self.method])[:6]}.json"

    @cached_property
    def digest(self) -> str:
        """16 hex digits over everything that decides the cell's numbers, the code that computes features included."""
        from specfm import __version__

        body = {k: v for k, v in to_dict(self.suite).items() if k not in ("datasets", "metric")}
        return digest_json(
            {"suite": body, "dataset": to_dict(self.dataset), "part": self.part, "method": self.method,
             "weights": self.weights, "cards": self.cards, "window": self.window, "code": code_digest(),
             "version": __version__}
        )  # fmt: skip


@dataclass(frozen=True)
class Cell:
    """A finished cell: rows and, for each, the counts ``[A, S, U, K, K]``."""

    rows: list[dict[str, Any]]
    counts: list[np.ndarray]


@contextmanager
def one_thread() -> Iterator[None]:
    """Sums in one order whatever the machine: torch and BLAS with one thread each."""
    import torch
    from threadpoolctl import threadpool_limits

    before = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        with threadpool_limits(1):
            yield
    finally:
        torch.set_num_threads(before)


def run_cell(plan: CellPlan, folder: Path) -> Path:
    """Compute a cell and publish its file in ``folder``; errors name the cell."""
    try:
        with one_thread():
            cell = _compute(plan)
    except SpecfmError as error:
        raise type(error)(f"{plan.title}: {error}") from None
    body = {
        "format": FORMAT, "digest": plan.digest, "dataset": plan.dataset.title, "method": plan.method,
        "part": plan.part, "rows": cell.rows, "counts": [_packed(counts) for counts in cell.counts],
    }  # fmt: skip
    path = folder / plan.file_name
    atomic_write_json(path, body)
    return path


def _compute(plan: CellPlan) -> Cell:
    scenes = open_dataset(plan.dataset)
    options = probe_options(plan.suite, plan.dataset, plan.window)
    encoder, pretrained = None, False
    if plan.part == "peers":
        options = replace(options, peers=(str(plan.checkpoint),))
    elif plan.checkpoint is not None:
        encoder, _, pretrained = open_encoder(plan.checkpoint, plan.device)
        wanted = plan.weights if plan.part in WITH_WEIGHTS else plan.architecture
        if wanted != (state_digest if plan.part in WITH_WEIGHTS else architecture_digest)(encoder):
            raise SpecfmError(
                f"{plan.checkpoint} was changed while the benchmark ran; name a checkpoint that stays as it is, or "
                "choose another --out"
            )
    result = probe(
        encoder, scenes, options, data=plan.dataset.title, name=plan.method, pretrained=pretrained,
        bank=None if plan.cache is None else Bank(plan.cache), parts=(plan.part,), device=plan.device,
    )  # fmt: skip
    cell = Cell([], [])
    for row, runs in zip(result.rows, result.runs, strict=True):
        if row["kind"] == "majority" and plan.part != "baselines":
            continue  # worked out in every cell for its alarms, shown once
        if plan.part in ("random-init", "scratch"):
            row["method"] = plan.method
        told = {
            "suite": plan.suite.name,
            "part": plan.part,
            "note": plan.dataset.note,
            "architecture": plan.architecture,
        }
        cell.rows.append({**row, **told})
        cell.counts.append(_counts(runs, row["runs"]["initialisations"]))
    return cell


def _counts(runs: Runs, initialisations: int) -> np.ndarray:
    conf = np.stack(runs.conf_SUKK)
    return conf.reshape(initialisations, -1, *conf.shape[1:])


def _packed(counts: np.ndarray) -> dict[str, Any]:
    """Counts are mostly zero: places and numbers of the others."""
    flat = counts.reshape(-1).astype(np.int64)
    at = np.flatnonzero(flat)
    return {"shape": list(counts.shape), "at": at.tolist(), "count": flat[at].tolist()}


def read_cell(path: Path, digest: str | None = None) -> Cell:
    """Read a finished cell.

    Args:
        path: its file.
        digest: if given, what its plan must have been.

    Raises:
        SpecfmError: unreadable, or of another plan.
    """
    try:
        raw = read_json(path)
        if raw["format"] != FORMAT:
            raise ValueError(f"format {raw['format']!r}, not {FORMAT}")
        counts = []
        for packed in raw["counts"]:
            flat = np.zeros(int(np.prod(packed["shape"])))
            flat[packed["at"]] = packed["count"]
            counts.append(flat.reshape(packed["shape"]))
        cell, found = Cell(raw["rows"], counts), raw["digest"]
    except (OSError, ValueError, KeyError, TypeError, IndexError) as error:
        raise SpecfmError(f"{path} is not a finished cell ({error}); delete it and run again with --resume") from None
    if digest is not None and found != digest:
        raise SpecfmError(
            f"{path} was made by another suite, checkpoint, card or version of specfm; choose another --out, or delete "
            "it to have it made again"
        )
    return cell
