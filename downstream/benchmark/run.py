"""Many datasets, encoders and protocols: cells computed by several processes, resumable, merged into one leaderboard.

``OUT/cells/*.json`` holds a file per cell, ``OUT/results.jsonl`` the rows of all (for ``specfm report``),
``OUT/leaderboard.md`` and ``.json`` the tables, ``OUT/suite.yaml`` what was asked for.
"""

from __future__ import annotations

import json
import multiprocessing
import os
import threading
from collections.abc import Callable, Sequence, Sized
from concurrent.futures import ProcessPoolExecutor, as_completed
from concurrent.futures.process import BrokenProcessPool
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from downstream.benchmark.cells import Cell, CellPlan, read_cell, run_cell
from downstream.benchmark.leaderboard import Board, leaderboard
from downstream.benchmark.suite import DatasetConfig, SuiteConfig, open_dataset, probe_options
from downstream.features.encoders import open_encoder
from downstream.features.extract import check_window
from downstream.features.fit import fit_facts
from downstream.probe.run import default_window
from downstream.splits.samples import asked_window
from specfm.config import find_config, to_yaml
from specfm.dense.align import wants_alignment
from specfm.digests import architecture_digest, digest_json, digest_parts, state_digest
from specfm.errors import SpecfmError, UsageError
from specfm.files import (
    atomic_write_json,
    atomic_write_text,
    refuse_closed_folder,
    remove_temporaries,
    sha256_file,
)
from specfm.locks import RunLock
from specfm.models.backbone import side_multiple
from specfm.models.one_size import fixed_side
from specfm.progress import progress


@dataclass(frozen=True)
class _Entry:
    """An encoder of the benchmark."""

    checkpoint: str
    name: str
    weights: str
    architecture: str
    library: str
    fit: str
    window: int
    patch_size: int
    fixed_side: int | None


def run_benchmark(
    suite: SuiteConfig,
    checkpoints: Sequence[str],
    out: str | Path,
    *,
    jobs: int = 1,
    resume: bool = False,
    device: str = "cpu",
    cache: str | None = None,
    done: Callable[[str], None] | None = None,
) -> Board:
    """Run what is missing of a benchmark and put all of it together.

    Args:
        suite: datasets and protocols.
        checkpoints: encoders, each ``PATH`` or ``NAME=PATH`` (see ``open_encoder`` for paths).
        out: folder of the benchmark.
        jobs: processes; the numbers do not depend on it.
        resume: go on in a folder that has finished cells.
        device: where to compute.
        cache: where to keep features (None = nowhere).
        done: called with the title of every finished cell.

    Raises:
        UsageError: ``out`` holds a benchmark and ``resume`` is false, encoders of one name, windows that disagree.
        SpecfmError: a cell could not be computed (the others are finished first), or one there is of another suite.
    """
    out = Path(out)
    if jobs < 1:
        raise UsageError("--jobs must be at least 1")
    refuse_closed_folder(out)
    if not resume and out.exists() and any(out.iterdir()):
        raise UsageError(f"{out} exists; pass --resume to go on with it, or choose another --out")
    entries = _entries(suite, checkpoints, device)
    plans = plan_cells(suite, entries, device, cache)
    folder = out / "cells"
    folder.mkdir(parents=True, exist_ok=True)
    with RunLock(out, wait=resume) as lock:
        remove_temporaries(folder)
        missing = []
        for plan in plans:
            path = folder / plan.file_name
            if path.exists():
                read_cell(path, plan.digest)
            else:
                missing.append(plan)
        atomic_write_text(out / "suite.yaml", to_yaml(suite))
        failed = _run(missing, folder, jobs, done)
        lock.check()
        finished = [(plan, read_cell(folder / plan.file_name)) for plan in plans if (folder / plan.file_name).exists()]
        _refuse_other_data(folder, finished)
        board = leaderboard(suite, finished)
        _publish(out, suite, finished, board)
    if failed:
        raise SpecfmError(
            f"{len(failed)} of {len(plans)} cells could not be computed: {'; '.join(failed)}; the others are in {out}, "
            "mend this and pass --resume"
        )
    return board


def _entries(suite: SuiteConfig, checkpoints: Sequence[str], device: str) -> list[_Entry]:
    """Every encoder opened once, so that one that is missing is known before any work."""
    if not checkpoints:
        raise UsageError("no encoder is named; pass --checkpoints PATH or NAME=PATH")
    found: list[_Entry] = []
    for text in checkpoints:
        given, sign, path = text.partition("=")
        if sign and not given:
            raise UsageError(f"{text}: the name before = is empty; write NAME={path}, or {path} alone")
        encoder, name, _ = open_encoder(path if sign else text, device)
        name = given if sign else name
        if name in (entry.name for entry in found):
            raise UsageError(f"{text}: another encoder is called {name!r} too; tell them apart: NAME={path or text}")
        window = suite.window or default_window(encoder)
        check_window(encoder, window)
        weights, architecture = state_digest(encoder), architecture_digest(encoder)
        held = getattr(encoder, "library", None)
        library = "-" if held is None else held.digest
        if suite.align and held is None:
            raise UsageError(f"{text} comes without a library of spectra, so it cannot be aligned; leave align out")
        fit = digest_json(fit_facts(encoder))
        reads = side_multiple(encoder), fixed_side(encoder)
        found.append(_Entry(path if sign else text, name, weights, architecture, library, fit, window, *reads))
    if len({entry.window for entry in found}) > 1:
        sides = ", ".join(f"{entry.name} {entry.window}" for entry in found)
        raise UsageError(f"the encoders were pretrained with different windows ({sides} px); give the suite a window")
    return found


def plan_cells(
    suite: SuiteConfig, entries: Sequence[_Entry], device: str = "cpu", cache: str | None = None
) -> list[CellPlan]:
    """All cells in table order: of each dataset the encoders, frozen and fine-tuned, then every architecture from
    scratch and untrained, then the baselines."""
    plans: list[CellPlan] = []
    for dataset in suite.datasets:
        scenes = open_dataset(dataset)  # what cannot be opened is known before any work
        window = asked_window(scenes, dataset.window) or entries[0].window
        for entry in entries:
            check_window(entry, window)
        options = probe_options(suite, dataset, window)
        options.check()
        protocols, frozen = options.protocols, options.frozen
        # twins differ by architecture, where features are aligned by the library that they are aligned with, and where
        # they are fitted by how their encoder would be
        moved, twins = wants_alignment(scenes, suite.align), dict[tuple[str, str], _Entry]()
        like = {
            entry.name: "".join((entry.library if moved else "-", f" {entry.fit}" if suite.fit else ""))
            for entry in entries
        }
        architectures = dict[str, _Entry]()
        for entry in entries:
            twins.setdefault((entry.architecture, like[entry.name]), entry)
            architectures.setdefault(entry.architecture, entry)
        shared: dict[str, Any] = {
            "suite": suite, "dataset": dataset, "cards": _cards_digest(dataset), "window": window,
            "device": device, "cache": cache,
        }  # fmt: skip

        def plan(part: str, entry: _Entry, method: str, weights: str, shared: dict[str, Any] = shared) -> CellPlan:
            return CellPlan(
                part=part, method=method, checkpoint=entry.checkpoint, weights=weights,
                architecture=entry.architecture, **shared,
            )  # fmt: skip

        def titled(name: str, entry: _Entry, others: Sized) -> str:
            alone = len(others) == 1 and name not in {each.name for each in entries}
            return name if alone else f"{name} ({entry.name})"

        for part, asked in (("encoder", frozen), ("finetune", "finetune" in protocols)):
            plans += [plan(part, entry, entry.name, entry.weights) for entry in (entries if asked else ())]
        for entry in architectures.values() if "scratch" in protocols else ():
            plans.append(plan("scratch", entry, titled("from-scratch", entry, architectures), "-"))
        for peer in suite.peers if frozen else ():
            plans.append(
                CellPlan(
                    part="peers", method=peer, checkpoint=peer, weights=_peer_digest(peer), architecture="-", **shared
                )
            )
        for entry in twins.values() if suite.init_seeds and frozen else ():
            plans.append(plan("random-init", entry, titled("random-init", entry, twins), like[entry.name]))
        del scenes
        plans.append(
            CellPlan(part="baselines", method="baselines", checkpoint=None, weights="-", architecture="-", **shared)
        )
    return plans


def _peer_digest(text: str) -> str:
    from downstream.features.peers import PeerName

    path = PeerName.parse(text).weights
    if path is None:
        return "-"
    if not path.is_file():
        raise UsageError(f"peer {text!r}: {path} does not exist")
    return sha256_file(path)[:16]


def _cards_digest(dataset: DatasetConfig) -> str:
    named = (Path(card) for card in dataset.cards)
    files = (p if p.is_file() else find_config(f"data/{p.name.removesuffix('.yaml')}.yaml") for p in named)
    return digest_parts(file.read_bytes() for file in files)


def _run(plans: Sequence[CellPlan], folder: Path, jobs: int, done: Callable[[str], None] | None) -> list[str]:
    """Compute cells; returns a sentence for each that failed by an error that the user can mend."""
    failed: list[str] = []

    def report(plan: CellPlan, error: SpecfmError | None) -> None:
        if error is not None:
            failed.append(str(error))
        elif done is not None:
            done(plan.title)

    if jobs == 1 or len(plans) < 2:
        for plan in plans:
            try:
                run_cell(plan, folder)
                report(plan, None)
            except SpecfmError as error:
                report(plan, error)
        return failed
    context = multiprocessing.get_context("spawn")
    workers = ProcessPoolExecutor(min(jobs, len(plans)), mp_context=context, initializer=_in_worker)
    with progress("cells", len(plans)) as advance, workers as pool:
        calls = {pool.submit(run_cell, plan, folder): plan for plan in plans}
        try:
            for call in as_completed(calls):
                try:
                    call.result()
                    report(calls[call], None)
                except BrokenProcessPool:
                    raise SpecfmError(
                        "a process of the benchmark was killed (out of memory?); pass --resume, with fewer --jobs"
                    ) from None
                except SpecfmError as error:
                    report(calls[call], error)
                advance()
        except BaseException:
            pool.shutdown(wait=False, cancel_futures=True)
            for process in multiprocessing.active_children():
                process.terminate()  # cells appear by rename: one that is cut short leaves nothing
            raise
    return failed


def _refuse_other_data(folder: Path, finished: Sequence[tuple[CellPlan, Cell]]) -> None:
    """Cells of one dataset are compared, so all must have seen the same pixels and labels.

    Raises:
        SpecfmError: the data files were changed between two runs of one benchmark.
    """
    first: dict[str, tuple[str, CellPlan]] = {}
    for plan, cell in finished:
        for digest in {row["digests"]["data"] for row in cell.rows}:
            known, earlier = first.setdefault(plan.dataset.title, (digest, plan))
            if digest != known:
                raise SpecfmError(
                    f"the data of {plan.dataset.title} changed while the benchmark ran: {folder / plan.file_name} and "
                    f"{folder / earlier.file_name} saw other pixels or labels; delete the older one and pass --resume"
                )


def _in_worker() -> None:
    """End with the benchmark, even where that is killed, and leave the terminal to its progress bar."""
    from multiprocessing.connection import wait

    os.environ["TTY_COMPATIBLE"] = "0"  # rich then takes the terminal for a file
    parent = multiprocessing.parent_process()
    if parent is not None:

        def follow() -> None:
            wait([parent.sentinel])
            os._exit(1)

        threading.Thread(target=follow, daemon=True).start()


def _publish(out: Path, suite: SuiteConfig, finished: Sequence[tuple[CellPlan, Cell]], board: Board) -> None:
    """Rows of all cells, table by table, and the leaderboard."""
    rows: list[dict[str, Any]] = []
    for dataset in suite.datasets:
        mine = [row for plan, cell in finished if plan.dataset is dataset for row in cell.rows]
        for shots in dict.fromkeys(row["shots"] for row in mine):
            rows += [row for row in mine if row["shots"] == shots]
    lines = (json.dumps(row, sort_keys=True, allow_nan=False) for row in rows)
    atomic_write_text(out / "results.jsonl", "".join(f"{line}\n" for line in lines))
    atomic_write_json(out / "leaderboard.json", board.to_dict())
    atomic_write_text(out / "leaderboard.md", board.markdown())
