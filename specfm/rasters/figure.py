"""Figures whose words are shown as they are: names of classes, scenes and bands come from files, and no ``$`` in them
begins a formula."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from matplotlib.figure import Figure


def plain_figure(**options: Any) -> Figure:
    """A figure of matplotlib that draws every text as it is written.

    Args:
        options: of ``matplotlib.figure.Figure``.
    """
    from matplotlib.figure import Figure
    from matplotlib.text import Text

    class PlainFigure(Figure):
        def draw(self, renderer: Any) -> None:
            for text in self.findobj(Text):
                text.set_parse_math(False)
            super().draw(renderer)

    return PlainFigure(**options)
