"""`specfm explain`: what a linear probe of frozen features rests on, along the wavelength axis.

Shapes: N samples, C bands, K classes.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from downstream.explain.gradients import integrated_gradients, require_captum
from downstream.explain.judge import Judge
from downstream.explain.occlusion import Rows, occlusion_rows
from downstream.explain.options import ExplainOptions
from downstream.explain.ranges import band_ranges, changed_features, occlude, one_sensor
from downstream.features.fit import FITTED, fitted
from downstream.features.spectra import spectra
from downstream.probe.run import prepared_scenes, take_samples
from downstream.results.rows import EncoderFacts
from downstream.splits.samples import Samples
from downstream.splits.split import Split, draw_splits
from specfm.bands import BandGrid
from specfm.brief import brief
from specfm.dense.align import aligned
from specfm.digests import digest_json
from specfm.errors import SpecfmError
from specfm.pretreatment import otherwise_taught
from specfm.selected_scene import for_encoder

if TYPE_CHECKING:
    from specfm.scene import Scene

RAW = "mean spectrum"


@dataclass(frozen=True)
class Explanation:
    """What was found.

    Attributes:
        occlusion: a row for each features (the encoder's, mean spectra beside), width and range.
        gradients: a row for each usable band; empty where they were left out.
        signatures: a row for each usable band: mean and deviation of every class.
        facts: data, encoder, splits, samples, notices; JSON-safe.
        bands: of the sensor.
        classes: names.
    """

    occlusion: Rows
    gradients: Rows
    signatures: Rows
    facts: dict[str, Any]
    bands: BandGrid
    classes: tuple[str, ...]

    __repr__ = brief


def explain(
    encoder: Any,
    scenes: Sequence[Scene],
    options: ExplainOptions | None = None,
    *,
    data: str = "scenes",
    name: str = "encoder",
    pretrained: bool = True,
) -> Explanation:
    """Importance of bands by occlusion and by integrated gradients, and signatures of the classes.

    Args:
        encoder: frozen encoder.
        scenes: labelled scenes of one sensor.
        options: what is computed, and how it is probed.
        data: its name, for tables.
        name: of the encoder, for tables.
        pretrained: False for an untrained control.

    Raises:
        UsageError: options that make no sense, scenes of several sensors, captum missing.
        SpecfmError: scenes without labels, splits that cannot be drawn.
    """
    options = options or ExplainOptions()
    options.check()
    if options.gradients:
        require_captum()
    probe = options.probe
    measured = scenes
    scenes, notices = prepared_scenes(scenes, probe)
    given, scenes = scenes, [for_encoder(encoder, scene) for scene in scenes]
    if (own := scenes[0].shape[2]) < given[0].shape[2]:
        notices.append(f"{name} is built for {own} of {given[0].shape[2]} bands: all rows are of these")
    notices += [FITTED.format("scenes")] if probe.fit else []
    notices += [said] if (said := otherwise_taught(getattr(encoder, "card", None), scenes)) else []
    bands = one_sensor(scenes)
    ranges = band_ranges(bands, options.widths_nm)
    samples, probe = take_samples(encoder, scenes, probe)
    window = samples.window
    splits = draw_splits(samples, probe, probe.shot_list[0])
    raw = spectra(scenes, window, samples)
    if raw is None:
        raise SpecfmError("the scenes have no common bands to explain")
    pixel, mean = raw.pixel, raw.mean
    mean_C = np.zeros(len(bands))
    mean_C[bands.valid] = mean.X_ND.mean(0)
    changes = [occlude(each.index_K, mean_C, bands.valid) for each in ranges]
    with fitted(encoder, scenes, probe.fit), aligned(encoder, scenes, probe.align):
        clean_ND, *hidden = changed_features(
            encoder, scenes, samples, window, [lambda x: x, *changes], pooling=probe.pooling, layers=probe.layers,
            title=f"occlude {name}",
        )  # fmt: skip
        shared = (ranges, samples, splits, probe, probe.draws)
        rows = occlusion_rows(name, clean_ND, hidden, *shared)
        gradients, completeness = _gradients(encoder, clean_ND, scenes, samples, splits, window, mean_C, options, bands)
    plain_ND = np.zeros((len(samples), len(bands)), np.float32)
    plain_ND[:, bands.valid] = mean.X_ND
    rows += occlusion_rows(RAW, mean.X_ND, [_raw(change, plain_ND)[:, bands.valid] for change in changes], *shared)
    about = EncoderFacts.of(encoder, pretrained, measured)
    facts = {
        "data": data,
        "encoder": name,
        "seen": about.seen,
        "checkpoint": about.checkpoint,
        "options": digest_json(asdict(options)),
        "window": window,
        "split": splits[0].rule,
        "splits": digest_json([split.digest for split in splits]),
        "samples": len(samples),
        "tested": int(np.mean([len(split.test_I) for split in splits])),
        "accuracy": {row["features"]: round(row["accuracy"], 4) for row in rows},
        "chance": round(1 / max(len(splits[0].classes), 1), 4),
        "completeness_error": completeness,
        "notices": sorted({*samples.notices, *notices, *(note for split in splits for note in split.notices)}),
    }
    names = tuple(samples.label_names[k] for k in np.unique(samples.y_N))
    return Explanation(rows, gradients, signatures(pixel.X_ND, samples, bands), facts, bands, names)


def signatures(x_NK: NDArray[np.float32], samples: Samples, bands: BandGrid) -> Rows:
    """Mean and deviation of every class in every usable band, physical units."""
    usable = np.flatnonzero(bands.valid)
    found: Rows = [{"band": int(c) + 1, "wavelength_nm": float(bands.wavelengths_nm[c])} for c in usable]
    for label in np.unique(samples.y_N).tolist():
        mine_NK = x_NK[samples.y_N == label].astype(np.float64)
        for row, mean, deviation in zip(found, mine_NK.mean(0), mine_NK.std(0), strict=True):
            row[f"{samples.label_names[label]} mean"] = float(mean)
            row[f"{samples.label_names[label]} sd"] = float(deviation)
    return found


def _raw(change: Any, x_NC: NDArray[np.float32]) -> NDArray[np.float32]:
    import torch

    return np.asarray(change(torch.from_numpy(x_NC)[:, None, None])[:, 0, 0].numpy())


def _gradients(
    encoder: Any,
    clean_ND: NDArray[np.float32],
    scenes: Sequence[Scene],
    samples: Samples,
    splits: Sequence[Split],
    window: int,
    mean_C: NDArray[np.float64],
    options: ExplainOptions,
    bands: BandGrid,
) -> tuple[Rows, float | None]:
    """Rows by band over test samples of the first split, drawn evenly from its classes."""
    if not options.gradients:
        return [], None
    split, probe = splits[0], options.probe
    order_I = np.random.default_rng([split.seed, 43]).permutation(split.test_I)
    rank = np.zeros(len(order_I), int)
    for label in np.unique(samples.y_N[order_I]):
        mine = samples.y_N[order_I] == label
        rank[mine] = np.arange(mine.sum())
    chosen_I = np.sort(order_I[np.argsort(rank, kind="stable")[: options.gradients]])
    judge = Judge.fit(clean_ND, samples.y_N, split, probe)
    some = samples.take(chosen_I)
    found_NC, error = integrated_gradients(
        encoder, judge, scenes, some, window, mean_C, pooling=probe.pooling, layers=probe.layers, steps=options.steps
    )
    size_C = np.abs(found_NC).mean(0)
    rows = []
    for c in np.flatnonzero(bands.valid).tolist():
        row = {
            "band": c + 1,
            "wavelength_nm": float(bands.wavelengths_nm[c]),
            "mean_size": float(size_C[c]),
            "share": float(size_C[c] / max(size_C.sum(), 1e-12)),
            "mean": float(found_NC[:, c].mean()),
        }
        for label in np.unique(some.y_N).tolist():
            row[samples.label_names[label]] = float(found_NC[some.y_N == label, c].mean())
        rows.append(row)
    return rows, error
