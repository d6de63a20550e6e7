"""Result rows of a fine-tuning, in the format of every probe, and the table of them.

Shapes: S runs, U resampling units, K classes.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from downstream.features.fit import FITTED
from downstream.results import metrics, text
from downstream.results.leakage import Leakage
from downstream.results.rows import Comparison, EncoderFacts, metric_cell, result_rows
from downstream.results.runs import Runs
from downstream.tasks.config import FinetuneConfig
from downstream.tasks.train import Member, TaskData
from specfm.config import to_dict
from specfm.digests import digest_json
from specfm.models.backbone import AnyEncoder

if TYPE_CHECKING:
    from rich.table import Table

CHANGE = ("f1_changed", "iou_changed")
WHERE = ("out", "device", "wandb", "tensorboard", "guard")  # says where a run happened, not what it was


def task_rows(
    config: FinetuneConfig,
    all_runs: Sequence[Runs],
    first: Member,
    source: AnyEncoder,
    data: TaskData,
    leaks: Sequence[Leakage],
    notices: Sequence[str] = (),
) -> list[dict[str, Any]]:
    """One row per method: the scores of every probe, of segmentation the IoU, of change F1 and IoU of *changed*.

    Args:
        config: the fine-tuning.
        all_runs: confusions of every method.
        first: the method that was asked for.
        source: its encoder before training.
        data: scenes, samples, splits.
        leaks: per split.
        notices: of the training.
    """
    scenes = [scene for place in data.places for scene in place.dates]
    told = {key: value for key, value in to_dict(config).items() if key not in WHERE}
    about = Comparison(
        data.samples, data.splits, leaks, config.data.tile, config.head.pooling, config.head.layers or (),
        config.data.card, data.digest, digest_json(told), EncoderFacts.of(source, first.pretrained, scenes),
        config.evaluation.draws, notices,
    )  # fmt: skip
    rows = result_rows(all_runs, about)
    for row, runs in zip(rows, all_runs, strict=True):
        row |= {"task": config.task, "init": config.init, "guard": data.splits[0].window - 1}
        if config.fit and row["kind"] in ("encoder", "twin"):
            row |= {"fitted": "scenes", "notices": sorted({*row["notices"], FITTED.format("scenes")})}
        if config.task == "change":
            row |= _change_cells(np.stack(runs.conf_SUKK), config.evaluation.draws)
    return rows


def _change_cells(conf_SU22: np.ndarray, draws: int) -> dict[str, Any]:
    values = metrics.change_scores(conf_SU22.sum(1))
    intervals = metrics.bootstrap_sums(
        conf_SU22.reshape(*conf_SU22.shape[:2], -1),
        lambda sums_BX: metrics.change_scores(sums_BX.reshape(-1, 2, 2)), draws=draws,
    )  # fmt: skip
    return {name: metric_cell(values[name], intervals[name]) for name in CHANGE}


def shown_metrics(task: str) -> tuple[tuple[str, str], ...]:
    """Keys and headings of a task's table; the first has its interval beside it."""
    if task == "change":
        return (("f1_changed", "F1 changed"), ("iou_changed", "IoU changed"), ("kappa", "kappa"), ("oa", "OA"))
    if task == "segmentation":
        return (("miou", "macro mIoU"), ("oa", "OA"), ("aa", "AA"), ("kappa", "kappa"))
    return (("oa", "OA"), ("aa", "AA"), ("macro_f1", "macro-F1"), ("kappa", "kappa"))


def task_table(rows: Sequence[Mapping[str, Any]], title: str | None = None) -> Table:
    """The rows as a rich table."""
    from rich import box
    from rich.table import Table

    shown = shown_metrics(rows[0]["task"])
    table = Table(title=title, title_justify="left", box=box.SIMPLE_HEAD, padding=(0, 1, 0, 0))
    table.add_column("method", overflow="fold")
    table.add_column("trained", overflow="fold")
    for index, (_, heading) in enumerate(shown):
        table.add_column(heading, no_wrap=True)
        if index == 0:
            table.add_column("95 % CI", no_wrap=True)
    table.add_column("seen", overflow="fold")
    table.add_column("overlap", overflow="fold")
    for row in rows:
        cells = []
        for index, (key, _) in enumerate(shown):
            cells.append(text.points(row.get(key)))
            if index == 0:
                cells.append(text.interval(row.get(key)))
        table.add_row(row["method"], row["protocol"], *cells, row["seen"], text.leak_mark(row))
    return table
