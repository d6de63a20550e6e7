"""Specimens in the plane of their first two components: colour by label, shape by the group that was found."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from downstream.relate.run import Relations
from downstream.report.figures import colour_of, new_figure

if TYPE_CHECKING:
    from matplotlib.figure import Figure

SHAPES = "os^Dv<>Pp*hX"
NAMED = 40  # specimens, up to which each has its name beside it


def relations_figure(found: Relations) -> Figure:
    """One panel; without labels colours are those of groups."""
    figure = new_figure(8.0, 6.5)
    axis: Any = figure.subplots()
    labels = sorted({row["label"] for row in found.rows} - {""})
    for row in found.rows:
        label, group = row["label"], row["group_found"]
        colour = colour_of(labels.index(label)) if label else "0.6" if labels else colour_of(group - 1)
        axis.plot(row["pc1"], row["pc2"], SHAPES[(group - 1) % len(SHAPES)], color=colour, ms=7, mec="white", mew=0.5)
        if len(found.rows) <= NAMED:
            name = row["specimen"].split("/", 1)[-1].replace("$", r"\$")
            axis.annotate(name, (row["pc1"], row["pc2"]), xytext=(5, 3), textcoords="offset points", fontsize=6)
    for number, label in enumerate(labels):
        axis.plot([], [], "o", color=colour_of(number), label=label.replace("$", r"\$"))
    for group in range(1, found.facts["groups"] + 1):
        axis.plot([], [], SHAPES[(group - 1) % len(SHAPES)], color="0.4", label=f"group {group}")
    axis.margins(x=0.15)  # room for names
    axis.legend(fontsize=7, ncols=2)
    axis.set_title(f"{len(found.rows)} specimens by {found.facts['features'][0]}", fontsize=9, loc="left")
    axis.set_xlabel("first component", fontsize=8)
    axis.set_ylabel("second component", fontsize=8)
    axis.tick_params(labelsize=7)
    axis.grid(alpha=0.25)
    return figure
