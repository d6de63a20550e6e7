"""kill -9 at random moments of a run on two ranks: each is taken up, and has to end in the bits of one never disturbed.

    nice -n 19 python -m tests.benchmarks.kills --count 100 --out runs/bench/kills

One run a kill: started, one rank (or both) killed after a random time from its start, taken up with ``--resume``. Half
of the runs hold the blocks of the transformer in parts (fsdp2). Every kill is a line of ``kills.jsonl``; called again,
it goes on after the last. Then a table. Exit code 1 where a run did not end, or in other bits. The same seed draws the
same moments, but what a process is doing then is for the machine to say.
"""

from __future__ import annotations

import argparse
import json
import os
import random
import shutil
import signal
import sys
import time
from collections import Counter
from pathlib import Path
from typing import Any

from tests.pretrain.runs import Job, launch, make_shards, metrics, settings, steps_done, weights

RANKS, STEPS = 2, 24
KEYS = (f"steps={STEPS}", "checkpoint.every=2", "checkpoint.retry_s=0.05", "guard.peer_timeout_s=10")
STRATEGIES = ("ddp", "fsdp2")
LIMIT_S = 180.0  # for a run that takes seconds
ALONE_S = 20.0  # for a rank whose peer is gone, before it is told to end; torchrun tells it at once


def started(out: Path, shards: list[str], strategy: str, *more: str) -> Job:
    """A run on its ranks."""
    return launch(
        out.parent,
        ["pretrain/debug.yaml", *more, *settings(out, shards, *KEYS, f"parallel={strategy}")],
        world=RANKS,
    )


def came_to(out: Path) -> dict[str, Any]:
    """What has to be the same: weights, moments, and the record but for its times."""
    last = out / "checkpoints" / f"step-{STEPS:08d}"
    return {
        "weights": weights(out),
        "moments": (last / "training.safetensors").read_bytes(),
        "record": [(row["step"], row["loss"], row["grad_norm"]) for row in metrics(out)],
    }


def undisturbed(folder: Path, shards: list[str], strategy: str) -> tuple[dict[str, Any], float]:
    """The oracle, and how long it took."""
    out, began = folder / "run", time.monotonic()
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir()
    codes = started(out, shards, strategy).wait(LIMIT_S)
    assert codes == [0] * RANKS, codes
    return came_to(out), time.monotonic() - began


def end_the_rest(job: Job) -> list[int]:
    """What torchrun does once a rank has died: the others are told to end. Those that had not ended by then."""
    end = time.monotonic() + ALONE_S
    while any(each.is_alive() for each in job.processes) and time.monotonic() < end:
        time.sleep(0.05)
    alive = [rank for rank, each in enumerate(job.processes) if each.is_alive()]
    for rank in alive:
        job.processes[rank].terminate()
    return alive


def one(folder: Path, shards: list[str], number: int, seed: int, wanted: dict[str, Any], seconds: float) -> dict:
    """Kill, take up, compare."""
    draw = random.Random(f"{seed} {number}")
    strategy, delay = STRATEGIES[number % 2], draw.uniform(0.02, 1.0) * seconds
    victims = draw.choice([[0], [1], [0, 1]])
    out = folder / "run"
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir()
    job = started(out, shards, strategy)
    time.sleep(delay)
    for rank in victims:
        if job.processes[rank].is_alive():
            os.kill(job.processes[rank].pid, signal.SIGKILL)
    done, told = steps_done(out), end_the_rest(job)
    codes = job.wait(LIMIT_S)
    left = [path.name for path in (out / "checkpoints").glob("*")] if out.is_dir() else []
    again = started(out, shards, strategy, "--resume")
    ended = again.wait(LIMIT_S)
    found = came_to(out) if ended == [0] * RANKS else {}
    return {
        "kill": number, "strategy": strategy, "ranks": victims, "after_s": round(delay, 3), "codes": codes,
        "told": told, "steps_done": done, "unfinished_save": any(name.startswith(".tmp-") for name in left),
        "checkpoints": sum(name.startswith("step-") for name in left), "resumed_codes": ended,
        "equal": found == wanted, "differs": [key for key in found if found[key] != wanted[key]],
        "text": "" if found == wanted else (job.text + again.text)[-3000:],
    }  # fmt: skip


def table(rows: list[dict[str, Any]]) -> str:
    """Kills by strategy and by what they met."""

    def met(row: dict[str, Any]) -> str:
        if all(code == 0 for code in row["codes"]):
            return "nothing: it had ended"
        if row["unfinished_save"]:
            return "a save"
        return "a step" if row["steps_done"] else "start-up"

    lines = ["| strategy | killed in | runs | ended in the same bits |", "|---|---|---|---|"]
    counts = Counter((row["strategy"], met(row)) for row in rows)
    equal = Counter((row["strategy"], met(row)) for row in rows if row["equal"])
    lines += [f"| {name} | {what} | {n} | {equal[name, what]} |" for (name, what), n in sorted(counts.items())]
    lines.append(f"| all | | {len(rows)} | {sum(row['equal'] for row in rows)} |")
    return "\n".join(lines)


def main() -> int:
    """Kill, write, print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--count", type=int, default=100, help="kills in all")
    parser.add_argument("--out", type=Path, default=Path("runs/bench/kills"), help="folder of shards, runs and lines")
    parser.add_argument("--seed", type=int, default=0)
    given = parser.parse_args()
    os.environ.setdefault("SPECFM_CACHE", str(given.out.resolve() / "cache"))
    given.out.mkdir(parents=True, exist_ok=True)
    record, data = given.out / "kills.jsonl", given.out / "shards"
    if not data.is_dir():
        data.mkdir()
        make_shards(data)
    shards = [str(path) for path in sorted(data.glob("*.h5"))]
    rows = [json.loads(line) for line in record.read_text().splitlines()] if record.is_file() else []
    if len(rows) < given.count:
        oracles = {each: undisturbed(given.out / f"undisturbed-{each}", shards, each) for each in STRATEGIES}
        oracles |= {each: undisturbed(given.out / f"undisturbed-{each}", shards, each) for each in STRATEGIES}  # warm
        for number in range(len(rows), given.count):
            rows.append(one(given.out / "killed", shards, number, given.seed, *oracles[STRATEGIES[number % 2]]))
            with record.open("a") as handle:
                handle.write(json.dumps(rows[-1]) + "\n")
            print(f"{number + 1} of {given.count}: {'equal' if rows[-1]['equal'] else rows[-1]}", flush=True)
    print(table(rows[: given.count]))
    return 0 if all(row["equal"] for row in rows[: given.count]) else 1


if __name__ == "__main__":
    sys.exit(main())
