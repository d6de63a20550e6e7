"""One vector a specimen: the mean of what an encoder says of its pixels, or of one view of the whole of it.

Shapes: N specimens, H W pixels of a scene, h w patches, p patch side, s side of a view, D width.
"""

from __future__ import annotations

import csv
import io
import json
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from specfm.brief import brief
from specfm.dense.tile_encoder import DenseEncoder, TileEncoder, encoder_plan
from specfm.dense.tile_reader import fitting_batch
from specfm.errors import SpecfmError, UsageError
from specfm.files import atomic_write_bytes, atomic_write_text, refuse_existing
from specfm.models.backbone import side_multiple
from specfm.models.one_size import refuse_other_side
from specfm.objects import pieces
from specfm.progress import progress
from specfm.rows import Rows
from specfm.scene import Scene
from specfm.selected_scene import for_encoder
from specfm.specimens import Specimen, whole_view
from specfm.tiles import blended_rows

COLUMNS = ("specimen", "scene", "group", "label", "pixels", "row", "col")  # of a CSV, before the features
OF_LARGEST = 0.2  # of the pixels of the largest piece, from which on a piece may be a specimen


@dataclass(frozen=True)
class SpecimenVectors(Rows):
    """Vectors of specimens.

    Attributes:
        vectors_ND: float32.
        rows: of each specimen its ``COLUMNS``.
        facts: how they were made.
    """

    vectors_ND: NDArray[np.float32]
    rows: list[dict[str, Any]]
    facts: dict[str, Any] = field(default_factory=dict)

    __repr__ = brief

    def write(self, out: Path | str, overwrite: bool = False) -> list[Path]:
        """Write ``out``: ``.csv`` (a line a specimen), or ``.npy`` with the names in a ``.json`` beside it.

        Raises:
            UsageError: another ending, or a file that exists.
        """
        out = Path(out)
        check_out(out, overwrite)
        names = [f"f{number + 1}" for number in range(self.vectors_ND.shape[1])]
        if out.suffix == ".csv":
            text = io.StringIO()
            writer = csv.writer(text, lineterminator="\n")
            writer.writerow([*COLUMNS, *names])
            for row, vector_D in zip(self.rows, self.vectors_ND, strict=True):
                writer.writerow([*(row[name] for name in COLUMNS), *(f"{value:.9g}" for value in vector_D)])
            atomic_write_text(out, text.getvalue())
            return [out]
        body = io.BytesIO()
        np.save(body, self.vectors_ND, allow_pickle=False)
        beside = out.with_suffix(".json")
        atomic_write_bytes(out, body.getvalue())
        atomic_write_text(beside, json.dumps({**self.facts, "specimens": self.rows}, indent=1))
        return [out, beside]


def check_out(out: Path, overwrite: bool = False) -> None:
    """Refuse a file that vectors cannot be written to, before any work.

    Raises:
        UsageError: an ending that is neither .csv nor .npy, or a file that exists.
    """
    if out.suffix not in (".csv", ".npy"):
        raise UsageError(f"{out}: vectors of specimens are written as .csv or .npy; choose another --out")
    for path in (out, out.with_suffix(".json")) if out.suffix == ".npy" else (out,):
        refuse_existing(path, overwrite)


def embed_specimens(
    encoder: DenseEncoder,
    specimens: Sequence[Specimen],
    *,
    whole: int | None = None,
    window: int = 0,
    stride: int = 0,
    level: str = "scene",
    batch_size: int = 32,
    facts: dict[str, Any] | None = None,
) -> SpecimenVectors:
    """One vector for each specimen.

    Args:
        encoder: a specfm encoder.
        specimens: see :func:`specfm.specimens.find_specimens`; those of a scene follow each other.
        whole: see each specimen alone, the whole of it on so many pixels a side; the mean over its tokens. None walks
            over each scene in tiles as dense features do; the mean over the specimen's pixels, so that a patch counts
            by the share of it that lies on the specimen.
        window: side of the tiles, pixels, as of :func:`specfm.dense.stream.embed_to_file`.
        stride: between tiles, likewise.
        level: of the features, likewise.
        batch_size: tiles, or views, in one forward call: memory and speed depend on it, vectors do not.
        facts: further facts to keep with the vectors.

    Raises:
        UsageError: no specimen, tiles or views that the patch does not divide.
    """
    if not specimens:
        raise UsageError("no specimen to embed")
    encoder.eval()
    p = encoder.patch_size
    multiple = side_multiple(encoder)
    if whole is not None and (whole < multiple or whole % multiple):
        near = max(multiple, round(whole / multiple) * multiple)
        raise UsageError(f"a view of {whole} pixels is not a multiple of the encoder's patch of {multiple}; try {near}")
    if whole is not None:
        refuse_other_side(encoder, whole, "whole")
    vectors_ND = np.empty((len(specimens), int(encoder.num_features)), np.float32)
    with progress("embed specimens", len(specimens)) as advance:
        for first, last in _runs(specimens):
            some = specimens[first:last]
            if whole is None:
                vectors_ND[first:last] = _by_pixels(encoder, some, window, stride, level, batch_size)
            else:
                vectors_ND[first:last] = _by_views(encoder, some, whole, batch_size)
            advance(last - first)
    how = {"whole": whole} if whole is not None else {"window": window, "stride": stride, "level": level}
    return SpecimenVectors(vectors_ND, [_row(each) for each in specimens], {**(facts or {}), "patch": p, **how})


def _row(specimen: Specimen) -> dict[str, Any]:
    scene = specimen.scene
    named = 0 <= specimen.label < len(scene.label_names)
    return {
        "specimen": specimen.name,
        "scene": scene.name,
        "group": scene.group or scene.name,
        "label": scene.label_names[specimen.label] if named else "",
        "pixels": int(specimen.mask_hw.sum()),
        "row": specimen.row + specimen.mask_hw.shape[0] // 2,  # the middle of its box, from 0
        "col": specimen.col + specimen.mask_hw.shape[1] // 2,
    }


def one_of_several_pieces(specimens: Sequence[Specimen]) -> str | None:
    """What to say where scans without numbers of specimens show several pieces of a size, each perhaps a specimen."""
    several = [each for each in specimens if each.number is None and pieces(each.mask_hw, OF_LARGEST) > 1]
    if not several:
        return None
    return (
        f"{several[0].scene.where}: its {pieces(several[0].mask_hw, OF_LARGEST)} pieces count as one specimen"
        + (f", likewise those of {len(several) - 1} more scans" if len(several) > 1 else "")
        + "; if each is one, say so in a card (object: {threshold: otsu, each_piece: true})"
    )


def _runs(specimens: Sequence[Specimen]) -> list[tuple[int, int]]:
    """(first, last) of the specimens of one scene, scene by scene."""
    changes = [i for i in range(1, len(specimens)) if specimens[i].scene is not specimens[i - 1].scene]
    return list(zip([0, *changes], [*changes, len(specimens)], strict=True))


def _by_pixels(
    encoder: DenseEncoder, specimens: Sequence[Specimen], window: int, stride: int, level: str, batch_size: int
) -> NDArray[np.float64]:
    """Means of the dense features of one scene over the pixels of each of its specimens, [n, D]."""
    scene, p = specimens[0].scene, encoder.patch_size
    plan = encoder_plan(encoder, scene, window, stride)
    shares = [_pixels_of_patches(each, scene, p, plan.shape) for each in specimens]
    sums_nD, counts_n = np.zeros((len(specimens), int(encoder.num_features))), np.zeros(len(specimens))
    encode = TileEncoder(encoder, scene, level)
    for first, rows_hwD in blended_rows(plan, encode, fitting_batch(batch_size, plan.side * p, scene.shape[2])):
        for number, count_hw in enumerate(shares):
            here_hw = count_hw[first : first + len(rows_hwD)]
            on_hw = (here_hw > 0) & np.isfinite(rows_hwD[..., 0])  # a pretreatment may leave nothing of a pixel
            counts_n[number] += here_hw[on_hw].sum()
            if on_hw.any():
                sums_nD[number] += here_hw[on_hw].astype(np.float64) @ rows_hwD[on_hw].astype(np.float64)
    if not counts_n.all():
        name = specimens[int(counts_n.argmin())].name
        raise SpecfmError(f"{name}: no pixel is left of it that an encoder can see; look at its masks and pretreatment")
    return sums_nD / counts_n[:, None]


def _pixels_of_patches(specimen: Specimen, scene: Scene, p: int, shape: tuple[int, int]) -> NDArray[np.int64]:
    """count_hw: pixels of the specimen in each patch of its scene."""
    whole_HW = np.zeros((shape[0] * p, shape[1] * p), np.int64)
    height, width = specimen.mask_hw.shape
    whole_HW[specimen.row : specimen.row + height, specimen.col : specimen.col + width] = specimen.mask_hw
    counts: NDArray[np.int64] = whole_HW.reshape(shape[0], p, shape[1], p).sum((1, 3))
    return counts


def _by_views(encoder: DenseEncoder, specimens: Sequence[Specimen], side: int, batch_size: int) -> NDArray[np.float32]:
    """Pooled features of whole views, [n, D]; each view has its own level, since it is all that is seen."""
    import torch

    views = [for_encoder(encoder, whole_view(each, side)) for each in specimens]
    step = fitting_batch(batch_size, side, views[0].shape[2])
    found = []
    for start in range(0, len(views), step):
        some = views[start : start + step]
        x_BssC = torch.from_numpy(np.stack([view.read().astype(np.float32) for view in some]))
        mask_Bss = torch.from_numpy(np.stack([view.mask() for view in some]))
        with torch.inference_mode():
            sensors = [view.sensor for view in some]  # each has its own ground sampling distance
            found.append(encoder(x_BssC, sensors, mask_Bss).pooled_BD.float().cpu().numpy())
    return np.concatenate(found)
