"""The tables of a benchmark, and which differences between encoders are more than chance.

Two methods are compared on the same splits: groups or blocks are drawn with replacement, both are scored on the draw,
and the interval is that of their difference (paired bootstrap). A difference counts where the interval leaves out zero;
intervals are not corrected for the number of comparisons.

Shape suffixes: A initialisations, S splits, U resampling units, K classes, B bootstrap draws, X sums.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from downstream.benchmark.cells import Cell, CellPlan
from downstream.benchmark.suite import SuiteConfig
from downstream.results import metrics
from downstream.results.runs import identity
from downstream.results.text import interval, leak_mark, leakage_of, points, remarks

if TYPE_CHECKING:
    from rich.table import Table


MOST_HELD_OUT = 8  # of a dataset, for a column each; plots left out one by one are more


@dataclass(frozen=True)
class Difference:
    """Method ``a`` minus method ``b`` under one protocol of one table."""

    data: str
    shots: int | None
    protocol: str
    a: str
    b: str
    mean: float
    low: float | None
    high: float | None
    units: int
    leaky: bool

    @property
    def verdict(self) -> str:
        """ "better", "worse", "not told apart", or "too few units"."""
        if self.low is None or self.high is None:
            return "too few units"
        return "better" if self.low > 0 else "worse" if self.high < 0 else "not told apart"


@dataclass(frozen=True)
class Section:
    """One table with what is said below it."""

    title: str
    headings: tuple[str, ...]
    rows: tuple[tuple[str, ...], ...]
    below: tuple[str, ...] = ()


@dataclass(frozen=True)
class Board:
    """The leaderboard of a benchmark."""

    suite: str
    metric: str
    sections: tuple[Section, ...]
    differences: tuple[Difference, ...]

    def to_dict(self) -> dict[str, Any]:
        """JSON-safe form: the tables as shown, the differences as numbers."""
        differences = [{**asdict(d), "verdict": d.verdict} for d in self.differences]
        sections = [asdict(section) for section in self.sections]
        return {"suite": self.suite, "metric": self.metric, "sections": sections, "differences": differences}

    def markdown(self) -> str:
        """The whole board as text with Markdown tables."""
        parts = [f"# {self.suite}\n"]
        for section in self.sections:
            lines = [section.headings, tuple("---" for _ in section.headings), *section.rows]
            table = "\n".join("| " + " | ".join(cell.replace("|", "/") for cell in line) + " |" for line in lines)
            below = "".join(f"\n* {line}" for line in section.below)
            parts.append(f"## {section.title}\n\n{table}\n{below}\n")
        return "\n".join(parts)

    def tables(self) -> Iterator[tuple[Table, tuple[str, ...]]]:
        """Every section as a rich table with the lines below it."""
        from rich import box
        from rich.table import Table

        for section in self.sections:
            table = Table(title=section.title, title_justify="left", box=box.SIMPLE_HEAD, padding=(0, 1, 0, 0))
            for heading in section.headings:
                table.add_column(heading, overflow="fold")
            for row in section.rows:
                table.add_row(*row)
            yield table, section.below


def paired_difference(
    a_ASUKK: np.ndarray, b_ASUKK: np.ndarray, metric: str = "aa", *, draws: int = 1000, seed: int = 0
) -> tuple[float, metrics.Interval]:
    """Mean difference a - b of a metric over splits and initialisations, with its paired bootstrap interval.

    Args:
        a_ASUKK: confusion counts of every initialisation, split and unit; the splits are those of ``b_ASUKK``.
        b_ASUKK: the other method; it may have another number of initialisations.
        metric: of ``metrics.METRICS``.
        draws: bootstrap draws.
        seed: of the draws.
    """
    first, classes = len(a_ASUKK), a_ASUKK.shape[-1]
    both_SUAKK = np.concatenate([a_ASUKK, b_ASUKK]).transpose(1, 2, 0, 3, 4)
    sums_SUX = both_SUAKK.reshape(*both_SUAKK.shape[:2], -1)

    def difference(sums_BX: np.ndarray) -> dict[str, np.ndarray]:
        value_BA = metrics.scores(sums_BX.reshape(len(sums_BX), -1, classes, classes))[metric]
        return {metric: value_BA[:, :first].mean(1) - value_BA[:, first:].mean(1)}

    mean = float(np.nanmean(difference(sums_SUX.sum(1))[metric]))
    return mean, metrics.bootstrap_sums(sums_SUX, difference, draws=draws, seed=seed)[metric]


Entry = tuple[dict[str, Any], np.ndarray]  # a row and its counts


def leaderboard(suite: SuiteConfig, finished: Sequence[tuple[CellPlan, Cell]]) -> Board:
    """The tables of all finished cells."""
    entries: dict[str, list[Entry]] = {}
    for plan, cell in finished:
        entries.setdefault(plan.dataset.title, []).extend(zip(cell.rows, cell.counts, strict=True))
    metric, differences = suite.metric, []
    for title, mine in entries.items():
        for shots in dict.fromkeys(row["shots"] for row, _ in mine):
            table = [entry for entry in mine if entry[0]["shots"] == shots]
            differences += _differences(title, table, metric, suite.draws)
    sections = [_overview(entries, metric), *_held_out(entries, metric)]
    sections += [_dataset(title, mine, metric) for title, mine in entries.items()]
    if differences:
        sections.append(_comparison(differences, metric))
    return Board(suite.name, metric, tuple(sections), tuple(differences))


def _differences(title: str, table: Sequence[Entry], metric: str, draws: int) -> list[Difference]:
    """Every encoder with the later ones, its twins, peers and baselines of pixels and patches, under each protocol.

    Fine-tuned, it is compared with its architecture trained from scratch.
    """
    found = []
    for protocol in dict.fromkeys(row["protocol"] for row, _ in table):
        here = [entry for entry in table if entry[0]["protocol"] == protocol]
        encoders = [entry for entry in here if entry[0]["kind"] == "encoder"]
        untrained = table if protocol == "finetune" else here
        twins = [e for e in untrained if e[0]["kind"] == ("scratch" if protocol == "finetune" else "twin")]
        raw = [e for e in here if e[0]["kind"] == "peer" or e[0]["support"] in ("pixel", "patch")]
        for i, a in enumerate(encoders):
            own = [twin for twin in twins if twin[0]["architecture"] == a[0]["architecture"]]
            for b in (*encoders[i + 1 :], *own, *raw):
                if a[0]["digests"]["splits"] != b[0]["digests"]["splits"]:
                    continue
                mean, ci = paired_difference(a[1], b[1], metric, draws=draws)
                known = bool(np.isfinite(ci.low))
                found.append(
                    Difference(
                        title, a[0]["shots"], protocol, a[0]["method"], b[0]["method"], round(mean, 6),
                        round(ci.low, 6) if known else None, round(ci.high, 6) if known else None, ci.units,
                        a[0]["leaky"],
                    )
                )  # fmt: skip
    return found


def _label(row: dict[str, Any]) -> tuple[str, str, str, str]:
    """What a line is of; its kind tells methods of one name apart and is not printed."""
    return *identity(row), _shots(row["shots"])


def _shots(shots: int | None) -> str:
    return str(shots) if shots else "all"


def _overview(entries: dict[str, list[Entry]], metric: str) -> Section:
    """One line per method, protocol and number of labels, one column per dataset."""
    labels = dict.fromkeys(_label(row) for mine in entries.values() for row, _ in mine)
    cells = {(title, _label(row)): row for title, mine in entries.items() for row, _ in mine}
    leaks = {title: leakage_of(row for row, _ in mine) for title, mine in entries.items()}
    headings = ("method", "probe", "labels", *(f"{title}, {leak}" for title, leak in leaks.items()))
    rows = []
    for label in labels:
        line = list(label[1:])
        for title in entries:
            row = cells.get((title, label))
            line.append(f"{points(row[metric])} [{interval(row[metric])}]" if row else "-")
        rows.append(tuple(line))
    below = ("deviation over splits (and initialisations); in brackets the 95 % interval over groups or blocks",)
    return Section(f"{metric.upper()} of every dataset", headings, tuple(rows), below)


def _held_out(entries: dict[str, list[Entry]], metric: str) -> list[Section]:
    """All datasets where sensors or scenes were left out in one table, a column for each that was."""
    left_out = {
        title: list(dict.fromkeys(name for row, _ in mine for name in row["held_out"]))
        for title, mine in entries.items()
    }
    columns = [(title, name) for title, names in left_out.items() for name in names if len(names) <= MOST_HELD_OUT]
    if not columns:
        return []
    labels = dict.fromkeys(_label(row) for mine in entries.values() for row, _ in mine)
    held = {(title, _label(row)): row["held_out"] for title, mine in entries.items() for row, _ in mine}
    rows = []
    for label in labels:
        scores = [held.get((title, label), {}).get(name) for title, name in columns]
        if any(scores):
            rows.append((*label[1:], *("-" if s is None else f"{s[metric]:.3f}" for s in scores)))
    headings = ("method", "probe", "labels", *(f"{name} ({title})" for title, name in columns))
    below = tuple(
        f"{title}: {leakage_of(row for row, _ in entries[title])}" for title in dict.fromkeys(t for t, _ in columns)
    )
    return [Section(f"{metric.upper()} on what was left out", headings, tuple(rows), below)]


def _dataset(title: str, mine: Sequence[Entry], metric: str) -> Section:
    headings = (
        "method",
        "probe",
        "labels",
        metric.upper(),
        "95 % CI",
        "OA" if metric != "oa" else "AA",
        "seen",
        "leakage",
    )
    other = "oa" if metric != "oa" else "aa"
    # as given within one number of labels; the numbers of labels one after the other
    ordered = [row for shots in dict.fromkeys(r["shots"] for r, _ in mine) for row, _ in mine if row["shots"] == shots]
    rows = [
        (*_label(row)[1:], points(row[metric]), interval(row[metric]), points(row[other]), row["seen"], leak_mark(row))
        for row in ordered
    ]
    first = ordered[0]
    sizes = first["samples"]
    what = (
        f"{title}: split by {first['split']}, window {first['window']} px, {len(first['classes'])} classes, "
        f"{first['runs']['splits']} splits of {sizes['train']} / {sizes['val']} / {sizes['test']} samples"
    )
    below = [note for note in dict.fromkeys(row["note"] for row in ordered) if note] + remarks(ordered)
    return Section(what, headings, tuple(rows), tuple(below))


def _comparison(differences: Sequence[Difference], metric: str) -> Section:
    rows = []
    for d in differences:
        ends = "-" if d.low is None or d.high is None else f"{d.low:+.3f} to {d.high:+.3f}"
        data = f"{d.data} LEAKY" if d.leaky else d.data
        rows.append((d.a, d.b, data, d.protocol, _shots(d.shots), f"{d.mean:+.3f}", ends, d.verdict))
    below = ["paired bootstrap over groups or blocks, not corrected for the number of comparisons"]
    for a, b in dict.fromkeys((d.a, d.b) for d in differences):
        counted = [d.verdict for d in differences if (d.a, d.b) == (a, b) and not d.leaky]
        said = ", ".join(f"{counted.count(v)} {v}" for v in dict.fromkeys(counted))
        if said:
            below.append(f"{a} against {b}, leaky splits left out: {said}")
    headings = ("method", "against", "data", "probe", "labels", f"{metric.upper()} difference", "95 % CI", "verdict")
    return Section("Which differences are more than chance", headings, tuple(rows), tuple(below))
