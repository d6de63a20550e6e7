"""What each pairing and objective is worth alone and combined, on sensors left out of the pretraining:
``python -m tests.benchmarks.ablation --shards DIR --out DIR [--leave neon=neon_osbs,aviris=indian_pines+salinas_a]
[--recipes views,nearest] [--seeds 3] [--steps 200] [--batch 96]``.

For each domain left out, seed and recipe: a pretraining on all other domains, and frozen features of scenes of the one
left out, once with the stem of the run and once fitted to it (``--fit together``). ``start`` is the same encoder, of
the same seed, before its first step: every recipe is compared with it split by split.

DIR gets ``results.jsonl`` (one row a run, written as it ends; a second call goes on), ``table.md`` and ``curves.png``,
the losses of every recipe.
"""

from __future__ import annotations

import argparse
import json
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

import specfm
from downstream.probe.options import ProbeOptions
from downstream.probe.run import probe
from specfm.cards.opening import open_scenes
from tests.benchmarks.pretrained import START, lines, train
from tests.benchmarks.pretrained import arguments as arguments_of

NT_XENT = "nt_xent: {temperature: .1, negatives: {spectral: false, within: domain, near: %s}, projection: {layers: 0}}"
VIEWS, NEAREST = "pairs={kind: views}", "pairs={kind: nearest_elsewhere}"
SIMULATED = "data.simulated={share: .5}"
VICREG = "vicreg: {projection: {layers: 0}}"
MASKED = "masked: {bands: 64, decoder: {width: 64}}"
LEARNT = "whiten.lr_share=.1"  # the embedding is trained too, at a tenth of the rate; stems are held
RECIPES: dict[str, list[str]] = {
    "start": [VIEWS, f"objective={{{NT_XENT % 'false'}}}", *START],
    "views": [VIEWS, f"objective={{{NT_XENT % 'false'}}}"],
    "nearest": [NEAREST, f"objective={{{NT_XENT % 'true'}}}"],
    "views + simulated": [VIEWS, SIMULATED, f"objective={{{NT_XENT % 'false'}}}"],
    "nearest + simulated": [NEAREST, SIMULATED, f"objective={{{NT_XENT % 'true'}}}"],
    "vicreg": [VIEWS, f"objective={{{VICREG}}}"],
    "nearest + vicreg": [NEAREST, f"objective={{{VICREG}}}"],
    "local": [VIEWS, "objective={local: {}}"],
    "views + local": [VIEWS, f"objective={{local: {{}}, {NT_XENT % 'false'}}}"],
    "masked": [VIEWS, f"objective={{{MASKED}}}"],
    "latent": [VIEWS, "objective={latent: {}}"],
    "band_prediction": [VIEWS, "views.keep_low=.5", "objective={band_prediction: {}}"],
    "nearest + masked": [NEAREST, f"objective={{{NT_XENT % 'true'}, {MASKED}}}"],
    "nearest + learnt": [NEAREST, f"objective={{{NT_XENT % 'true'}}}", LEARNT],
    "nearest + learnt - content": [NEAREST, f"objective={{{NT_XENT % 'true'}}}", LEARNT, "model.options.content=false"],
    "masked + learnt": [VIEWS, f"objective={{{MASKED}}}", LEARNT],
    "masked + learnt - content": [VIEWS, f"objective={{{MASKED}}}", LEARNT, "model.options.content=false"],
    "nearest + vicreg + learnt - content": [NEAREST, f"objective={{{VICREG}}}", LEARNT, "model.options.content=false"],
}
PROBES: dict[str, dict[str, int]] = {
    "neon_osbs": {"max_per_class": 6, "min_groups": 3},
    "neon_mlbs": {"max_per_class": 3, "min_groups": 3},
    "indian_pines": {"max_per_class": 40, "min_groups": 5},
}
SCORES = ("knn1", "linear")


def options(card: str, fit: bool, splits: int) -> ProbeOptions:
    """How frozen features of a card are judged."""
    return ProbeOptions(
        protocols=("knn", "linear"), ks=(1,), window=9, pooling="centre", seeds=splits, init_seeds=0, baselines=False,
        fit=fit, **PROBES.get(card, {"max_per_class": 40}),
    )  # fmt: skip


def run(recipe: str, domain: str, cards: Sequence[str], seed: int, given: argparse.Namespace) -> dict[str, Any]:
    """Train without a domain, and judge on scenes of it.

    Raises:
        SystemExit: the training failed; it has said why.
    """
    began = time.process_time()
    folder = train([domain], seed, RECIPES[recipe], given)
    minutes = (time.process_time() - began) / 60
    losses = [row["loss"] for row in lines(folder / "metrics.jsonl") if row.get("loss") is not None]
    encoder, values = specfm.load(folder / "model"), {}
    for card in cards:
        for fit in (False, True):
            rows = probe(encoder, list(open_scenes([card])), options(card, fit, given.splits), data=card).rows
            for row in rows:
                if row["kind"] == "encoder":
                    values[f"{card}/{'fitted' if fit else 'own'}/{row['protocol']}"] = row["aa"]["values"]
    return {
        "recipe": recipe, "left_out": domain, "seed": seed, "steps": given.steps, "batch": given.batch,
        "minutes": round(minutes, 2), "losses": losses, "values": values,
    }  # fmt: skip


def table(rows: Sequence[dict[str, Any]]) -> str:
    """Markdown: mean over seeds and splits, and the paired difference to the start of the same seed with its error."""
    keys = list(dict.fromkeys(key for row in rows for key in row["values"]))
    starts = {(r["left_out"], r["seed"]): r["values"] for r in rows if r["recipe"] == "start"}
    lines = [f"| recipe | seeds | minutes | {' | '.join(keys)} |", f"|{'---|' * (len(keys) + 3)}"]
    for recipe in dict.fromkeys(row["recipe"] for row in rows):
        mine = [row for row in rows if row["recipe"] == recipe]
        cells = []
        for key in keys:
            there = [row for row in mine if key in row["values"]]
            apart = [
                np.array(row["values"][key]) - starts[row["left_out"], row["seed"]][key]
                for row in there
                if (row["left_out"], row["seed"]) in starts and recipe != "start"
            ]
            cell = f"{np.mean([row['values'][key] for row in there]):.3f}" if there else ""
            if apart:
                every = np.concatenate(apart)
                cell += f" ({every.mean():+.3f} ± {2 * every.std(ddof=1) / len(every) ** 0.5:.3f})"
            cells.append(cell)
        minutes = np.mean([row["minutes"] for row in mine])
        lines.append(f"| {recipe} | {len({r['seed'] for r in mine})} | {minutes:.1f} | {' | '.join(cells)} |")
    return "\n".join(lines) + "\n"


def plot(rows: Sequence[dict[str, Any]], path: Path) -> None:
    """Losses against steps, means over ten; a panel a recipe, a line a seed and domain left out."""
    import matplotlib

    matplotlib.use("Agg")
    import matplotlib.pyplot as plt

    rows = [row for row in rows if "losses" in row and row["recipe"] != "start"]
    recipes = list(dict.fromkeys(row["recipe"] for row in rows))
    if not recipes:
        return
    columns = min(4, len(recipes))
    shape = -(-len(recipes) // columns), columns
    figure, axes = plt.subplots(
        *shape, figsize=(2.6 * columns, 1.9 * shape[0]), layout="constrained", sharex=True, squeeze=False
    )
    for axis in axes.flat[len(recipes) :]:
        axis.set_axis_off()
    for axis, recipe in zip(axes.flat, recipes, strict=False):
        for row in rows:
            if row["recipe"] == recipe:
                losses = np.array(row["losses"])
                means = losses[: len(losses) // 10 * 10].reshape(-1, 10).mean(1)
                axis.plot(10 * np.arange(1, len(means) + 1), means, lw=0.8)
        axis.set_title(recipe, fontsize=8)
        axis.tick_params(labelsize=7)
    figure.supxlabel("steps", fontsize=8)
    figure.supylabel("loss", fontsize=8)
    figure.savefig(path, dpi=110)
    plt.close(figure)


def main(arguments: Sequence[str] | None = None) -> int:
    """Run what is missing; returns the exit code."""
    parser = arguments_of(__doc__, "neon=neon_osbs,aviris=indian_pines+salinas_a", steps=200, batch=96)
    parser.add_argument("--recipes", default=",".join(RECIPES))
    given = parser.parse_args(arguments)
    given.out.mkdir(parents=True, exist_ok=True)
    results = given.out / "results.jsonl"
    wanted = ["start", *(name for name in given.recipes.split(",") if name != "start")]
    if unknown := [name for name in wanted if name not in RECIPES]:
        parser.error(f"unknown recipes {unknown}; choose among {', '.join(RECIPES)}")
    left = dict(each.split("=") for each in given.leave.split(","))
    key = ("recipe", "left_out", "seed", "steps", "batch")
    for seed in range(given.seeds):
        for recipe in wanted:
            for domain, cards in left.items():
                if [recipe, domain, seed, given.steps, given.batch] in [[r[k] for k in key] for r in lines(results)]:
                    continue
                row = run(recipe, domain, cards.split("+"), seed, given)
                with results.open("a") as file:
                    file.write(json.dumps(row) + "\n")
                (given.out / "table.md").write_text(table(lines(results)))
                plot(lines(results), given.out / "curves.png")
    print(table(lines(results)))
    return 0


if __name__ == "__main__":
    sys.exit(main())
