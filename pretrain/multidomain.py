"""The multi-domain study of laboratory scans: one encoder for seven materials under cameras of 160, 256 and 288 bands.

After Lee, Eum & Kwon (TGRS 2022, one network for hyperspectral images of many domains) and a poster on seven folders of
scans: background masked, patches of 32 x 32 pixels, SimCLR with NT-Xent on batches mixed of all domains, then kNN
(k = 20) and a linear probe beside a random backbone. Three things are done otherwise, and both ways are shown:

* bands meet by wavelength (the encoder; 256 bands by wavelength + PCA-30), not by index (256 bands by index + PCA-30);
* test patches come from scans of their own, and the encoder was pretrained on yet other scans; a split that puts
  patches of one scan on both sides stands beside it, marked leaky;
* the linear probe is fitted until it converges.

Every stage uses what the ``specfm`` command of its name uses.

Shapes: H W pixels, N samples (patches).
"""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from specfm.brief import brief
from specfm.errors import SpecfmError, UsageError
from specfm.files import clear_stages
from specfm.rows import Rows

if TYPE_CHECKING:
    from specfm.scene import Scene

WINDOW, STRIDE, SEEN_STRIDE = 32, 16, 8  # pixels: a patch, and the step between probed and pretraining patches
TRAY_BELOW = 850.0  # stored mean level (reflectance .085) up to which a pixel is background
REAL = "corn_kernel"
NEIGHBOURS = (1, 20)
CONFIG = "pretrain/multidomain.yaml"
RULES = {"group": "scans apart", "random_pixels": "leaky"}
STAGES = ("scans", "objects", "shards", "shards-real", "pretrain", "features", "results.jsonl", "pc1_pc2.png")

Say = Callable[[str], None]


@dataclass(frozen=True, kw_only=True)
class StudyOptions:
    """How large the study is.

    Attributes:
        pretrain_scans: of each domain, for pretraining.
        scans: of each domain, for the probes; at least 3.
        size: side of a scan, pixels.
        seeds: splits.
        init_seeds: random backbones.
        real: card of a real scan that joins pretraining; None leaves it out.
        seed: of the simulation.
    """

    pretrain_scans: int = 3
    scans: int = 6
    size: int = 160
    seeds: int = 10
    init_seeds: int = 3
    real: str | None = REAL
    seed: int = 0

    def check(self) -> None:
        """Refuse what makes no sense, by name.

        Raises:
            UsageError: too few scans, or too small ones.
        """
        if self.pretrain_scans < 1 or self.scans < 3:
            raise UsageError("--pretrain-scans must be at least 1 and --scans, which splits keep apart, at least 3")
        if self.size < 2 * WINDOW:
            raise UsageError(f"--size must be at least {2 * WINDOW} pixels, two patches")


@dataclass(frozen=True)
class StudyResult(Rows):
    """Rows of all probes (``data`` and ``split`` tell them apart), the picture, and seconds by stage."""

    rows: list[dict[str, Any]]
    picture: Path
    seconds: dict[str, float]

    __repr__ = brief


def run_study(
    out: Path, options: StudyOptions | None = None, overwrite: bool = False, overrides: Sequence[str] = (),
    say: Say = print,
) -> StudyResult:  # fmt: skip
    """Run the study.

    Args:
        out: folder for everything it makes.
        options: its size.
        overwrite: replace what an earlier study left in ``out``; other files there are not touched.
        overrides: changes of ``configs/pretrain/multidomain.yaml`` (``steps=50``).
        say: gets one line when a stage begins and ends.

    Raises:
        UsageError: ``out`` holds an earlier study, options or overrides are wrong.
        SpecfmError: matplotlib is missing, or the real scan.
    """
    from downstream.report.figures import new_figure
    from pretrain.config import PretrainConfig
    from specfm.config import load_config

    options = options or StudyOptions()
    options.check()
    folders = [out / "shards", *([out / "shards-real"] if options.real else [])]
    places = [f"out={json.dumps(str(out / 'pretrain'))}", f"data.shards={json.dumps([str(each) for each in folders])}"]
    config = load_config(CONFIG, PretrainConfig, [*places, *overrides])
    new_figure(1, 1)  # fails before the work, not after it
    real = _real_scans(options.real, config.views.crop or WINDOW)
    clear_stages(out, STAGES, "study", overwrite)
    seconds: dict[str, float] = {}

    @contextmanager
    def stage(name: str, title: str) -> Iterator[None]:
        say(f"[{len(seconds) + 1}/5] {title}")
        began = time.perf_counter()
        yield
        seconds[name] = round(time.perf_counter() - began, 1)
        say(f"      {seconds[name]:.0f} s")

    with stage("simulate", "simulated scans of seven domains, raw counts with white and dark references"):
        cards = _simulate(out / "scans", options)
    with stage("mask", "calibrated, background masked, patches labelled"):
        seen, probed = _objects(cards, out / "objects", options.pretrain_scans)
    with stage("shard", f"shards of {WINDOW} x {WINDOW} patches"):
        say(f"      {_shard(seen, real, folders, config.views.crop or WINDOW)}")
    with stage("pretrain", f"NT-Xent on {config.data.domains_per_batch} domains a step, without labels"):
        from pretrain.loop import train

        train(config)
        if not (out / "pretrain" / "model").is_dir():
            raise SpecfmError(f"the study was stopped while pretraining; start it again with --overwrite --out {out}")
    with stage("probe", "probes by material and by domain, scans apart and leaky"):
        rows = _probe(out, seen, probed, options)
    return StudyResult(rows, out / "pc1_pc2.png", seconds)


def masked(scene: Scene, below: float | str) -> Scene | None:
    """The scene in memory with background as nodata and a label at the centre of each patch; None without a patch.

    Args:
        scene: calibrated; its material labels become one a patch, the most frequent in it.
        below: mean stored level of background, or ``otsu``.
    """
    from specfm.calibration.apply import MASKED
    from specfm.scene import ArraySource
    from specfm.shards.options import WindowOptions
    from specfm.shards.windows import plan_scene

    cut = WindowOptions((WINDOW, WINDOW), (STRIDE, STRIDE), label="majority", object_threshold=below)
    plan = plan_scene(scene, cut)
    if not len(plan):
        return None
    cube_HWC = scene.read()
    cube_HWC[~plan.mask_HW] = MASKED
    labels_HW = np.full(scene.shape[:2], -1, np.int32)
    centre_N2 = plan.origin_N2 + WINDOW // 2
    labels_HW[centre_N2[:, 0], centre_N2[:, 1]] = plan.label_N
    labels_HW[~plan.mask_HW] = -1
    return scene.replace(source=ArraySource(cube_HWC), path=None, labels_HW=labels_HW, nodata=float(MASKED))


def _simulate(out: Path, options: StudyOptions) -> list[Path]:
    from specfm.progress import progress
    from specfm.simulate.lab_materials import DOMAINS
    from specfm.simulate.laboratory import write_laboratory

    count = options.pretrain_scans + options.scans
    with progress("simulate scans", len(DOMAINS) * count) as advance:
        return write_laboratory(
            out, seed=options.seed, scans=count, size=(options.size, options.size), progress=advance
        )


def _objects(cards: Sequence[Path], out: Path, pretrain_scans: int) -> tuple[list[Scene], list[Scene]]:
    """Masked scans on disk: those to pretrain on, and those to probe on, labelled by material over all domains."""
    from specfm.cards import load_card
    from specfm.readers import read_scene
    from specfm.readers.own import save_scene

    listed = [load_card(card) for card in cards]
    names = tuple(f"{card.domain}/{name}" for card in listed for name in card.label_names)
    seen: list[Scene] = []
    probed: list[Scene] = []
    out.mkdir(parents=True)
    for card in listed:
        first = names.index(f"{card.domain}/{card.label_names[0]}")
        for number, scene in enumerate(card.scenes()):
            kept = masked(scene, TRAY_BELOW)
            if kept is None or kept.labels_HW is None:
                raise SpecfmError(f"{scene.where}: no patch of {WINDOW} pixels shows objects; give a larger --size")
            labels_HW = np.where(kept.labels_HW >= 0, kept.labels_HW + first, -1).astype(np.int32)
            kept = kept.replace(labels_HW=labels_HW, label_names=names, groups_HW=None)
            file = save_scene(kept, out / f"{scene.group}.h5")
            (seen if number < pretrain_scans else probed).append(read_scene(file, name=scene.group))
    return seen, probed


def _real_scans(card: str | None, crop: int) -> list[Scene]:
    """The scans of the card, opened, so that what cannot be read is told before the work; no card: none."""
    from specfm.cards import load_card

    if card is None:
        return []
    try:
        scans = list(load_card(card).scenes())
    except SpecfmError as error:
        raise type(error)(f"{error}; to leave the real scan out give --real none") from None
    if (side := _real_side(scans)) < crop:
        raise UsageError(
            f"scans of {card} are {side} pixels wide, less than a view of {crop}; choose another card for --real, or "
            "leave it out: --real none"
        )
    return scans


def _real_side(scans: Sequence[Scene]) -> int:
    return min(WINDOW, *(min(scan.shape[:2]) for scan in scans))


def _shard(seen: Sequence[Scene], real: Sequence[Scene], folders: Sequence[Path], crop: int) -> str:
    """Write the shards; says how many patches there are."""
    from specfm.shards import write_shards

    patches = sum(row["samples"] for row in write_shards(seen, folders[0], WINDOW, SEEN_STRIDE))
    if not real:
        return f"{patches} patches"
    side = _real_side(real)
    rows = write_shards(real, folders[1], min(side, max(crop, side - 3)), 1, object_threshold="otsu")
    return f"{patches} patches of simulated scans, {sum(row['samples'] for row in rows)} of {real[0].dataset}"


def _probe(out: Path, seen: Sequence[Scene], probed: Sequence[Scene], options: StudyOptions) -> list[dict[str, Any]]:
    from downstream.baselines.classics import pca_features
    from downstream.baselines.interpolated import By, common_list, patch_spectra
    from downstream.features.bank import Bank
    from downstream.features.extract import FeatureSet
    from downstream.probe.options import ProbeOptions
    from downstream.probe.run import probe
    from downstream.results.files import append_rows
    from downstream.splits.samples import collect_samples
    from specfm.checkpoint import load

    encoder, bank = load(out / "pretrain"), Bank(out / "features", strict=False)
    ways: tuple[By, ...] = ("index", "wavelength")
    centres_K = common_list([*seen, *probed])
    fitted = collect_samples(seen, WINDOW)
    fit_of = {by: patch_spectra(seen, fitted, centres_K, by).X_ND for by in ways}
    base = ProbeOptions(
        window=WINDOW, ks=NEIGHBOURS, seeds=options.seeds, init_seeds=options.init_seeds, pooling="mean", align=False,
        protocols=("knn", "linear"),
    )  # fmt: skip
    rows: list[dict[str, Any]] = []
    pictured: dict[str, FeatureSet] = {}
    for label, scenes in (("material", list(probed)), ("domain", [_by_domain(scene) for scene in probed])):
        samples = collect_samples(scenes, WINDOW)
        extra = {}
        for by in ways:
            _, scores = pca_features(fit_of[by], patch_spectra(scenes, samples, centres_K, by).X_ND)
            extra[f"{len(centres_K)} bands by {by}, PCA-30"] = FeatureSet(scores, samples, by)
        for rule in RULES:
            found = probe(
                encoder, scenes, replace(base, split=rule), data=f"lab scans by {label}", name="pretrained",
                extra=extra, bank=bank, parts=("encoder", "random-init"),
            )  # fmt: skip
            rows += found.rows
            if found.features is not None:
                pictured = {**extra, "pretrained encoder": found.features}
    append_rows(out / "results.jsonl", rows)
    _draw(pictured, out / "pc1_pc2.png")
    return rows


def _by_domain(scene: Scene) -> Scene:
    """The scene with its domain's number in place of its material's."""
    names = tuple(dict.fromkeys(name.partition("/")[0] for name in scene.label_names))
    domain_of = np.array([names.index(name.partition("/")[0]) for name in scene.label_names] + [-1], np.int32)
    assert scene.labels_HW is not None
    return scene.replace(labels_HW=domain_of[scene.labels_HW], label_names=names)  # -1 picks the last


def _draw(pictured: dict[str, Any], path: Path) -> None:
    """First two principal components of each kind of features, coloured by domain."""
    import io

    from downstream.baselines.classics import pca_features
    from downstream.report.figures import colour_of, new_figure
    from specfm.files import atomic_write_bytes

    figure = new_figure(4.2 * len(pictured), 4.2)
    for number, (title, features) in enumerate(pictured.items(), 1):
        axes = figure.add_subplot(1, len(pictured), number)
        score_N2, _ = pca_features(features.X_ND, features.X_ND, 2)
        for k, name in enumerate(features.samples.label_names):
            mine = features.y_N == k
            axes.scatter(score_N2[mine, 0], score_N2[mine, 1], s=5, color=colour_of(k), label=name, linewidths=0)
        axes.set_title(title, fontsize=9, loc="left")
        axes.set_xlabel("PC1", fontsize=8)
        axes.set_ylabel("PC2", fontsize=8)
        axes.tick_params(labelsize=7)
    figure.axes[-1].legend(fontsize=7, markerscale=2)
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png", dpi=110, metadata={"Software": None})
    atomic_write_bytes(path, buffer.getvalue())
