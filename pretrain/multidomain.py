"""The multi-domain study of laboratory scans: one encoder for seven materials under cameras of 160, 256 and 288 bands.

After Lee, Eum & Kwon (TGRS 2022, one network for hyperspectral images of many domains) and a poster on seven folders of
scans: background masked, patches of 32 x 32 pixels, SimCLR with NT-Xent on batches mixed of all domains, then kNN
(k = 20) and a linear probe beside a random backbone, and beside the encoder before its first step, whose stem is
whitened already. Three things are done otherwise, and both ways are shown:

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

from pretrain.lab_scans import WINDOW, masked_scans, real_scans, shard, simulate
from specfm.brief import brief
from specfm.errors import SpecfmError, UsageError
from specfm.files import clear_stages
from specfm.rows import Rows

if TYPE_CHECKING:
    from specfm.scene import Scene

REAL = "corn_kernel"
NEIGHBOURS = (1, 20)
CONFIG = "pretrain/multidomain.yaml"
RULES = {"group": "scans apart", "random_pixels": "leaky"}
STAGES = ("scans", "objects", "shards", "shards-real", "start", "pretrain", "features", "results.jsonl", "pc1_pc2.png")
START = "whitened, not trained"  # the encoder before its first step
HELD = ("steps=1", "optim.lr=1e-12", "optim.weight_decay=0")

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
    start = load_config(CONFIG, PretrainConfig, [*places, *overrides, f"out={json.dumps(str(out / 'start'))}", *HELD])
    new_figure(1, 1)  # fails before the work, not after it
    real = real_scans(options.real, config.views.crop or WINDOW)
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
        cards = simulate(out / "scans", options.seed, options.pretrain_scans + options.scans, options.size)
    with stage("mask", "calibrated, background masked, patches labelled"):
        seen, probed = masked_scans(cards, out / "objects", options.pretrain_scans)
    with stage("shard", f"shards of {WINDOW} x {WINDOW} patches"):
        say(f"      {shard(seen, real, folders, config.views.crop or WINDOW)}")
    with stage("pretrain", f"NT-Xent on {config.data.domains_per_batch} domains a step, without labels"):
        from pretrain.loop import train

        for name, each in (("start", start), ("pretrain", config)):
            train(each)
            if not (out / name / "model").is_dir():
                raise SpecfmError(
                    f"the study was stopped while pretraining; start it again with --overwrite --out {out}"
                )
    with stage("probe", "probes by material and by domain, scans apart and leaky"):
        rows = _probe(out, seen, probed, options)
    return StudyResult(rows, out / "pc1_pc2.png", seconds)


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

    encoder, start = load(out / "pretrain"), load(out / "start")
    bank = Bank(out / "features", strict=False)
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
            rows += [row for row in found.rows if row["kind"] == "encoder"]
            control = probe(
                start, scenes, replace(base, split=rule, init_seeds=0, baselines=False), data=f"lab scans by {label}",
                name=START, pretrained=False, bank=bank, parts=("encoder",),
            )  # fmt: skip
            rows += [row for row in control.rows if row["method"] == START]
            rows += [row for row in found.rows if row["kind"] != "encoder"]
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
