"""What the public functions return: where it was written, and what of it a caller goes on with."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from specfm.brief import brief
from specfm.rows import Rows, dataframe

if TYPE_CHECKING:
    import numpy as np
    from pandas import DataFrame

    from downstream.benchmark.leaderboard import Board
    from specfm.deploy.facts import Facts
    from specfm.scene import Scene


@dataclass(frozen=True)
class Raster:
    """A raster that was written of a scene.

    Attributes:
        path: the file.
        scene: what it is a map of, with grid and sensor.
    """

    path: Path
    scene: Scene

    __repr__ = brief

    @property
    def array(self) -> np.ndarray[Any, Any]:
        """[rows, cols] or [rows, cols, bands], read from the file (an ``.npy`` as it is asked for, page by page)."""
        import numpy as np

        from specfm.cards.raster_files import read_raster

        held = np.load(self.path, mmap_mode="r") if self.path.suffix == ".npy" else read_raster(self.path).array
        return held[..., 0] if held.ndim == 3 and held.shape[2] == 1 else held


@dataclass(frozen=True)
class ClassMap(Raster, Rows):
    """A map of classes; 0 = no data.

    Attributes:
        shares: of each class among the pixels with data, by name.
        picture: a PNG of it, None where none was asked for.
        probabilities: a raster of them (or of distances), None where none was asked for.
        threshold: of a change map, on what ``measure`` says.
        measure: what was cut at the threshold.
    """

    shares: dict[str, float]
    picture: Path | None = None
    probabilities: Path | None = None
    threshold: float | None = None
    measure: str = ""

    __repr__ = brief

    @property
    def rows(self) -> list[dict[str, Any]]:
        """``class`` and ``share``."""
        return [{"class": name, "share": share} for name, share in self.shares.items()]


@dataclass(frozen=True)
class SimilarityMap(Raster, Rows):
    """A map of cosine similarity to the nearest example.

    Attributes:
        rows: the best places: row, col, similarity, x, y (None without map coordinates).
    """

    rows: list[dict[str, Any]]

    __repr__ = brief


@dataclass(frozen=True)
class FeatureMap(Raster):
    """Dense features of a scene; ``array`` is [rows, cols, features].

    Attributes:
        facts: shape, patch, window, stride, coordinates of the first cell, share of cells with data.
    """

    facts: dict[str, Any]

    __repr__ = brief


@dataclass(frozen=True)
class Exported:
    """A model as one file.

    Attributes:
        path: the file, for :func:`specfm.run` where it is ONNX.
        facts: what travels in it: kind, sensors, tile, classes, palette, digest of the weights.
        difference: of what the file answers to what the model does, as a share of the largest output.
    """

    path: Path
    facts: Facts
    difference: float

    __repr__ = brief

    @property
    def size(self) -> int:
        """Bytes of the file."""
        return self.path.stat().st_size


@dataclass(frozen=True)
class Vectors(Rows):
    """One vector a specimen.

    Attributes:
        paths: what was written.
        rows: specimen, scene, group, label, pixels, row and col of each.
        array: [specimens, features].
    """

    paths: list[Path]
    rows: list[dict[str, Any]]
    array: np.ndarray[Any, Any]

    __repr__ = brief

    def to_dataframe(self) -> DataFrame:
        """A line a specimen: what it is, then its features ``f1``, ``f2`` ... as in the CSV.

        Raises:
            UsageError: pandas is not installed.
        """
        vectors = ({f"f{i}": value for i, value in enumerate(vector, 1)} for vector in self.array)
        return dataframe([row | vector for row, vector in zip(self.rows, vectors, strict=True)])


@dataclass(frozen=True)
class Descriptions(Rows):
    """What scenes are, or what specfm itself wrote.

    Attributes:
        rows: of each scene: scene, sensor, coverage, masks, values, findings, notes, what a card gives of it, quicklook
            if one was asked for. Of shards, a model, a run or results: one row of facts.
        refused: a sentence for each file of a folder that could not be read.
        single: the path named one thing.
    """

    rows: list[dict[str, Any]]
    refused: list[str]
    single: bool

    __repr__ = brief


@dataclass(frozen=True)
class Shards(Rows):
    """A folder of shards.

    Attributes:
        path: the folder, for ``data.shards`` of a pretraining.
        rows: file, status, domain, sensor, bands, dtype, scenes, samples, labelled, bytes and read_by of each shard.
    """

    path: Path
    rows: list[dict[str, Any]]

    __repr__ = brief


@dataclass(frozen=True)
class Benchmark(Rows):
    """A finished benchmark.

    Attributes:
        folder: cells, results.jsonl and leaderboard.
        rows: of all cells.
        board: overview, tables by data set, paired differences.
    """

    folder: Path
    rows: list[dict[str, Any]]
    board: Board

    __repr__ = brief


@dataclass(frozen=True)
class Compressed(Rows):
    """A finished compression benchmark.

    Attributes:
        folder: models, deployed files, results.jsonl, compression.md, pictures.
        rows: of all scenes and pipelines; sizes and times stand under ``compression``.
    """

    folder: Path
    rows: list[dict[str, Any]]

    __repr__ = brief


@dataclass(frozen=True)
class Report:
    """A page that was written.

    Attributes:
        path: of the page.
        sections: those that it has.
        left_out: (what, why) of everything left out.
        results: how many result rows it shows.
        scenes: how many scenes it shows.
    """

    path: Path
    sections: tuple[str, ...]
    left_out: tuple[tuple[str, str], ...]
    results: int
    scenes: int

    __repr__ = brief


@dataclass(frozen=True)
class Run(Rows):
    """A training run.

    Attributes:
        folder: of the run.
        finished: not stopped early, nor only planned.
        plan: what a dry run would do, a line each; empty where it was done.
    """

    folder: Path
    finished: bool
    plan: list[str] = field(default_factory=list)
    read_rows: Callable[[Path], list[dict[str, Any]]] = field(default=lambda folder: [], repr=False)

    __repr__ = brief

    @property
    def model(self) -> Path:
        """Its release folder, for ``specfm.load`` or ``specfm.predict``."""
        return self.folder / "model"

    @property
    def rows(self) -> list[dict[str, Any]]:
        """Steps of a pretraining, or results of a fine-tuning."""
        return self.read_rows(self.folder)
