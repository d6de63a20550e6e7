"""One self-contained HTML page: what was measured, how far it can be trusted, and what it looks like."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

from downstream.report import compression, tables
from downstream.report.curves import training_curves
from downstream.report.embedding import Embedding, embedding_scatter, has_umap
from downstream.report.figures import png_uri
from downstream.report.maps import map_view
from downstream.report.scenes import ROWS_PER_CLASS, class_spectra, scene_view
from downstream.report.sources import Sources, gather
from specfm.errors import SpecfmError, UsageError

if TYPE_CHECKING:
    from specfm.scene import Scene

MAX_SCENES = 24
SECTIONS = 5  # that are told as they are begun
SCENE_S, BYTES_A_S = 2.0, 2e8  # drawing a scene and the spectra of its classes; reading it


@dataclass(frozen=True)
class Page:
    """A written report: where it lies, which sections it has, and (what, why) of everything left out."""

    path: Path
    sections: tuple[str, ...]
    left_out: tuple[tuple[str, str], ...]
    rows: int


def build_report(
    out: str | Path,
    inputs: Iterable[str | Path] = (),
    *,
    rows: Sequence[Mapping[str, Any]] = (),
    scenes: Sequence[Scene] = (),
    embeddings: Mapping[str, Embedding] | None = None,
    title: str = "specfm report",
    notes: Sequence[str] = (),
    overwrite: bool = False,
    say: Callable[[str], None] = lambda section: None,
) -> Page:
    """Write ``out``; what the inputs do not hold is left out, and the page says so.

    Args:
        out: the page.
        inputs: run folders, results files, benchmark folders and maps, see `downstream.report.sources`.
        rows: result rows in memory, beside those of the inputs.
        scenes: scenes to show, with their labels and the spectra of their classes.
        embeddings: features to scatter, by name.
        title: of the page.
        notes: sentences to put under the title.
        overwrite: replace an existing file.
        say: gets the name of a section when it is begun.

    Raises:
        UsageError: ``out`` exists, or there is nothing to report.
        SpecfmError: an input that is not there or cannot be read, or matplotlib / jinja2 missing.
    """
    from specfm import __version__
    from specfm.files import atomic_write_text, refuse_existing

    out = Path(out)
    refuse_existing(out, overwrite)
    found = gather(inputs)
    found.rows += [dict(row) for row in rows]
    embeddings = embeddings or {}
    if not (found.rows or found.curves or found.pictures or found.maps or found.left_out or scenes or embeddings):
        raise UsageError("nothing to report; give a run folder, a results file, a map, scenes or embeddings")
    try:
        from jinja2 import Environment
    except ImportError as exc:
        raise SpecfmError("a report needs matplotlib and jinja2; install specfm[viz]") from exc
    template = Environment(autoescape=True, trim_blocks=True, lstrip_blocks=True).from_string(
        Path(__file__).with_name("page.html.j2").read_text(encoding="utf-8")
    )
    shown = _sections(found, scenes, embeddings, say)
    page = template.render(
        title=title,
        version=__version__,
        made=datetime.now(UTC).strftime("%Y-%m-%d %H:%M UTC"),
        notes=list(notes),
        left_out=found.left_out,
        rows_per_class=ROWS_PER_CLASS,
        scenes_left_out=max(len(scenes) - MAX_SCENES, 0),
        **shown,
    )
    atomic_write_text(out, page)
    return Page(out, tuple(name for name, part in shown.items() if part), tuple(found.left_out), len(found.rows))


def expected_seconds(scenes: Sequence[Scene]) -> float:
    """About how long scenes of a page take to read and to draw."""
    return sum(SCENE_S + math.prod(scene.shape) * scene.dtype.itemsize / BYTES_A_S for scene in scenes)


def _sections(
    found: Sources, scenes: Sequence[Scene], embeddings: Mapping[str, Embedding], say: Callable[[str], None]
) -> dict[str, Any]:
    """Every section of the page by its name in the template; reasons for empty ones go to ``found.left_out``."""
    left_out = found.left_out
    say("tables")
    shown: dict[str, Any] = {
        "boards": found.boards,
        "leaderboard": tables.leaderboard(found.rows),
        "groups": tables.accuracy(found.rows),
    }
    if not found.rows:
        left_out.append(("accuracy", "no result rows; write some with: specfm probe CKPT --data CARD --out FILE.jsonl"))
    elif not (shown["leaderboard"] or shown["boards"]):
        left_out.append(("leaderboard", "the rows hold one table; it compares methods over several"))
    shown["robustness"] = tables.robustness(found.rows)
    if not shown["robustness"]:
        left_out.append(("robustness", "no result row has a condition; write some with: specfm robustness"))
    shown["compression"] = compression.sections(found.rows)
    if not shown["compression"]:
        left_out.append(
            ("compression", "no result row is of a compression benchmark; write some with: specfm compress")
        )
    say("training curves")
    drawn = {name: training_curves(trainings) for name, trainings in found.curves.items()}
    shown["curves"] = [{"name": name, "uri": uri} for name, uri in drawn.items() if uri]
    if not found.curves:
        left_out.append(("training curves", "no input is a run folder with logged steps"))
    say("maps")
    shown["pictures"] = [{"name": name, "uri": png_uri(path.read_bytes())} for name, path in found.pictures]
    shown["maps"] = _maps(found, scenes)
    if not found.pictures and not found.maps:
        left_out.append(("maps", "no input is a fine-tuning run with map.png or a map of `specfm predict`"))
    say("scenes")
    shown["scenes"] = [scene_view(scene) for scene in list(scenes)[:MAX_SCENES]]
    shown["spectra"] = class_spectra(scenes)
    if not scenes:
        card = found.cards[0] if found.cards else "CARD"
        left_out.append(("scenes and spectra of classes", f"no scenes were given; pass --data {card}"))
    elif not shown["spectra"]:
        left_out.append(("spectra of classes", "the scenes have no labels"))
    say("embedding")
    shown["scatters"] = [
        {"name": name, "uri": embedding_scatter(e.X_ND, e.colourings), "by": ", ".join(e.colourings)}
        for name, e in embeddings.items()
    ]
    if not embeddings:
        left_out.append(("embedding", "no encoder was given; pass --data CARD --checkpoint CKPT"))
    elif not has_umap():
        left_out.append(("UMAP", "umap-learn is not installed; the embedding is shown by principal components"))
    shown["facts"] = [*found.facts, *tables.facts(found.rows), *(f for m in shown["maps"] for f in m["facts"])]
    return shown


def _maps(found: Sources, scenes: Sequence[Scene]) -> list[dict[str, Any]]:
    views = []
    for path in found.maps:
        try:
            view, reason = map_view(path, scenes)
        except SpecfmError as error:
            found.left_out.append((f"map {path.name}", str(error)))
            continue
        if reason:
            found.left_out.append((f"truth beside {path.name}", reason))
        views.append(view)
    return views
