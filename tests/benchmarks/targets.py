"""What pretraining is worth on the sets that decide: ``python -m tests.benchmarks.targets --shards DIR --out DIR
[--leave none,neon] [--seeds 3] [--steps 300] [--batch 192] [--splits 10] [--sets OSBS,MLBS]``.

For each seed and each domain left out ("none": no domain) the recipe of ``configs/pretrain/real_scenes.yaml`` is run,
and its start (the same whitened encoder before its first step). Both are judged on every set by frozen features, with
the stem of the run and once fitted to the scenes (``--fit together``); a domain left out is judged on its own sets.
Baselines of the same support, once a set.

DIR gets ``results.jsonl`` (a row a run, as it ends; a second call goes on) and ``table.md``: means over seeds and
splits, and the paired difference between trained and start with its 95 % interval, by a bootstrap over pairs of seed
and split.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import numpy as np

import specfm
from downstream.probe.options import ProbeOptions
from downstream.probe.run import PARTS, probe
from specfm.cards.opening import also_through, open_scenes
from tests.benchmarks.pretrained import START, lines, train
from tests.benchmarks.pretrained import arguments as arguments_of

PLAIN = ProbeOptions(protocols=("knn", "linear"), ks=(1,), window=9, pooling="centre", init_seeds=0, baselines=False)
FIELDS = {"window": 15, "pooling": "similar", "max_per_class": 40, "min_groups": 5}
# name: card, sensors that it is seen through, what differs from PLAIN, domain
SETS: dict[str, tuple[str, tuple[str, ...], dict[str, Any], str]] = {
    "OSBS": ("neon_osbs", (), {"max_per_class": 6, "min_groups": 3}, "neon"),
    "MLBS": ("neon_mlbs", (), {"max_per_class": 3, "min_groups": 3}, "neon"),
    "Indian Pines": ("indian_pines", (), FIELDS, "aviris"),
    "Indian Pines, 10 labels": ("indian_pines", (), {**FIELDS, "shots": (10,)}, "aviris"),
    "Salinas-A as EnMAP": ("salinas_a", ("enmap",), {"block": 12, "max_per_class": 40}, "aviris"),
    "Houston": ("houston2013_spectra", (), {"split": "random_pixels", "window": 1, "max_per_class": 30}, "casi"),
}  # fmt: skip
BASELINES = ("pixel spectrum", "MNF-30 3x3 mean", "MNF-30 3x3 mean, whole scenes")


def options(name: str, splits: int, **told: Any) -> ProbeOptions:
    """How features are judged on a set."""
    return replace(PLAIN, seeds=splits, **{**SETS[name][2], **told})


def judge(
    encoder: Any, names: Sequence[str], splits: int, parts: Sequence[str] = PARTS, **told: Any
) -> dict[str, list[float]]:
    """AA by split of every row asked for, by set, method and protocol."""
    found: dict[str, list[float]] = {}
    for name in names:
        card, through, differs, _ = SETS[name]
        fit = told.get("fit") and differs.get("window") != 1  # of spectra without neighbours nothing says what is noise
        if told.get("fit") and not fit and "encoder" in parts:
            continue
        asked = options(name, splits, **{**told, "fit": fit})
        scenes = list(open_scenes([card]))
        scenes = also_through(scenes, through)[len(scenes) :] if through else scenes
        for row in probe(encoder, scenes, asked, data=card, parts=parts).rows:
            if row["kind"] in ("encoder", "baseline"):
                who = "encoder" if row["kind"] == "encoder" else row["method"]
                found[f"{name}/{who}/{row['protocol']}"] = row["aa"]["values"]
    return found


def interval(values: np.ndarray, draws: int = 10_000) -> tuple[float, float]:
    """95 % of the mean, by a bootstrap over the values."""
    rng = np.random.default_rng(0)
    means = values[rng.integers(0, len(values), (draws, len(values)))].mean(1)
    return float(np.quantile(means, 0.025)), float(np.quantile(means, 0.975))


def table(rows: Sequence[dict[str, Any]]) -> str:
    """Markdown: a line a set and protocol."""
    lines = [
        "| left out | set | protocol | start | trained | trained - start | start, fitted | trained, fitted | "
        f"trained - start, fitted | {' | '.join(BASELINES)} |", f"|{'---|' * (9 + len(BASELINES))}",
    ]  # fmt: skip
    known = {key: v for row in rows if row["arm"] == "baselines" for key, v in row["values"].items()}
    for domain in dict.fromkeys(row["left_out"] for row in rows if row["arm"] != "baselines"):
        mine = [row for row in rows if row["left_out"] == domain and row["arm"] != "baselines"]
        for key in dict.fromkeys(key for row in mine for key in row["values"]):
            name, _, protocol = key.split("/")
            cells = []
            for fit in (False, True):
                of = {arm: {r["seed"]: r["values"][key] for r in mine if r["arm"] == arm and r["fit"] == fit
                            and key in r["values"]} for arm in ("start", "trained")}  # fmt: skip
                both = sorted(of["start"].keys() & of["trained"].keys())
                if not both:
                    cells += ["", "", ""]
                    continue
                start, after = (np.concatenate([of[arm][seed] for seed in both]) for arm in ("start", "trained"))
                low, high = interval(after - start)
                cells += [f"{start.mean():.3f}", f"{after.mean():.3f}",
                          f"{(after - start).mean():+.3f} ({low:+.3f} to {high:+.3f})"]  # fmt: skip
            beside = [known.get(f"{name}/{method}/{protocol}") for method in BASELINES]
            cells += ["" if v is None else f"{np.mean(v):.3f}" for v in beside]
            lines.append(f"| {domain} | {name} | {protocol} | {' | '.join(cells)} |")
    return "\n".join(lines) + "\n"


def main(arguments: Sequence[str] | None = None) -> int:
    """Run what is missing; returns the exit code."""
    parser = arguments_of(__doc__, "none,neon", steps=300, batch=192)
    parser.add_argument("--sets", default=",".join(name.replace(",", ";") for name in SETS))
    given = parser.parse_args(arguments)
    given.out.mkdir(parents=True, exist_ok=True)
    path = given.out / "results.jsonl"
    names = [name.replace(";", ",") for name in given.sets.split(",")]
    if unknown := [name for name in names if name not in SETS]:
        parser.error(f"unknown sets {unknown}; choose among {', '.join(SETS)} (with ; for a comma)")

    def rows() -> list[dict[str, Any]]:
        return [row for row in lines(path) if asked.items() <= row.items()]  # of these settings alone

    def keep(row: dict[str, Any]) -> None:
        with path.open("a") as file:
            file.write(json.dumps(row | asked) + "\n")
        (given.out / "table.md").write_text(table(rows()))

    asked = {key: getattr(given, key) for key in ("steps", "batch", "splits")}
    key = ("left_out", "seed", "arm", "fit")
    for seed in range(given.seeds):
        for domain in given.leave.split(","):
            wanted = [name for name in names if domain in ("none", SETS[name][3])]
            for arm, said in (("start", START), ("trained", [])):
                done = [tuple(row[k] for k in key) for row in rows()]
                missing = [fit for fit in (False, True) if (domain, seed, arm, fit) not in done]
                excluded = [] if domain == "none" else [domain]
                encoder = specfm.load(train(excluded, seed, said, given) / "model") if missing else None
                for fit in missing:
                    about = {"left_out": domain, "seed": seed, "arm": arm, "fit": fit}
                    keep(about | {"values": judge(encoder, wanted, given.splits, fit=fit)})
    if not any(row["arm"] == "baselines" for row in rows()):
        found = judge(specfm.load("real_nano"), names, given.splits, ("baselines",), baselines=True, fit=True)
        keep({"left_out": "", "arm": "baselines", "seed": 0, "fit": False, "values": found})
    print(table(rows()))
    return 0


if __name__ == "__main__":
    sys.exit(main())
