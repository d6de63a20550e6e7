"""Every flag of the specimen toolkit that a pretraining takes acts: each is changed, and its effect is seen.

The page that maps flags to keys is configs/pretrain/SPECIMENS.md; it names these tests.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

import specfm
from downstream.probe.run import default_window
from pretrain.loop import train
from pretrain.setup import make_sampler, open_shards
from pretrain.summary import summary_rows
from specfm.engine.record import read_metrics
from specfm.errors import UsageError
from specfm.shards import ShardSet
from tests.pretrain.runs import debug_config, make_shard

STEPS = ("steps=2", "optim.warmup_steps=1", "checkpoint.every=2", "monitor.features_every=2")


@pytest.fixture(scope="module")
def shards(tmp_path_factory: pytest.TempPathFactory) -> list[str]:
    return [str(make_shard(tmp_path_factory.mktemp("shards") / "a.h5", "alpha", 60, 48, 1, low=400, high=900))]


class Run:
    """One short pretraining: rows of its metrics, and its model."""

    def __init__(self, out: Path, shards: list[str], *overrides: str) -> None:
        self.config = debug_config(out, shards, *STEPS, *overrides)
        self.folder = train(self.config)
        self.rows = read_metrics(self.folder)
        self.model: Any = specfm.load(self.folder / "model")
        self.card = json.loads((self.folder / "model" / "card.json").read_text())

    @property
    def losses(self) -> list[float]:
        return [row["loss"] for row in self.rows]


@pytest.fixture(scope="module")
def plain(shards: list[str], tmp_path_factory: pytest.TempPathFactory) -> Run:
    return Run(tmp_path_factory.mktemp("plain") / "run", shards)


def weights(run: Run) -> torch.Tensor:
    return torch.cat([p.detach().flatten() for p in run.model.parameters()])


@pytest.mark.parametrize(
    ("bands", "count"),
    [
        ("rgb", 3),
        ("sample:1,30,60", 3),
        ("{sample: [5, 6, 7, 8]}", 4),
        ("uniform:20", 20),
        ("regions:2", 8),
        ("{window: [500, 600]}", 12),
        ("importance:6", 6),
    ],
)
def test_bands(shards: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, bands: str, count: int) -> None:
    """`--rgb-only`, `--sample-bands`, strategies: the run reads these bands, all views are made of them."""
    seen = set()
    from specfm.models.encoder import Encoder

    def prepare(self: Any, x: Any, tensors: Any, *rest: Any, **more: Any) -> Any:
        seen.update(tensors.wavelengths_nm_GC[tensors.valid_GC].tolist())
        return original(self, x, tensors, *rest, **more)

    original = Encoder.prepare
    monkeypatch.setattr(Encoder, "prepare", prepare)
    config = debug_config(tmp_path / "run", shards, *STEPS, f"data.bands={bands}", "views.keep_low=1.0")
    train(config)
    own = open_shards(config).readers[0].sensor.bands.wavelengths_nm
    assert len(own) == count and seen == set(own.tolist())


def test_batch_size_decides_what_a_step_sees(shards: list[str], tmp_path: Path) -> None:
    config = debug_config(tmp_path / "run", shards, "data.global_batch=20")
    drawn = make_sampler(config, open_shards(config)).batch(0, 0, 1)
    assert sum(len(ids) for _, ids in drawn) == 20


def test_accumulation_holds_less_and_changes_nothing(
    shards: list[str], tmp_path: Path, plain: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    largest = []
    from specfm.models.encoder import Encoder

    original = Encoder.forward

    def forward(self: Any, x: Any, *rest: Any, **more: Any) -> Any:
        largest.append(sum(len(part) for part in x))
        return original(self, x, *rest, **more)

    monkeypatch.setattr(Encoder, "forward", forward)
    run = Run(tmp_path / "run", shards, "optim.micro_batch=4")
    assert max(largest) == 8  # two views
    assert np.allclose(run.losses, plain.losses, rtol=1e-5)


def test_precision(shards: list[str], tmp_path: Path, plain: Run) -> None:
    run = Run(tmp_path / "run", shards, "optim.precision=bf16")
    assert run.losses != plain.losses and np.allclose(run.losses, plain.losses, rtol=0.05)


def test_learning_rate_and_steps(shards: list[str], tmp_path: Path, plain: Run) -> None:
    run = Run(tmp_path / "run", shards, "optim.lr=1e-2", "steps=3")
    assert len(run.rows) == 3 and run.rows[0]["lr"] > 10 * plain.rows[0]["lr"]
    assert not torch.allclose(weights(run), weights(plain))


def test_resume_goes_on_where_it_stopped(shards: list[str], tmp_path: Path, plain: Run) -> None:
    out = tmp_path / "run"
    train(debug_config(out, shards, *STEPS, "steps=1", "checkpoint.every=1"))
    with pytest.raises(UsageError, match="exists"):
        train(debug_config(out, shards, *STEPS))
    train(debug_config(out, shards, *STEPS, "steps=3"), resume=True)
    assert [row["step"] for row in read_metrics(out)] == [1, 2, 3]


def test_output_folder_and_pictures(plain: Run) -> None:
    assert plain.folder == Path(plain.config.out)
    for name in ("config.yaml", "metrics.jsonl", "loss.png", "model/model.safetensors"):
        assert (plain.folder / name).is_file(), name


def test_stage_two_starts_from_the_weights_of_stage_one(shards: list[str], tmp_path: Path, plain: Run) -> None:
    """`--model-checkpoint`: with a learning rate of next to nothing the weights stay those that were loaded."""
    run = Run(tmp_path / "run", shards, f"init_from={plain.folder}", "optim.lr=1e-12", "seed=7")
    assert torch.allclose(weights(run), weights(plain), atol=1e-6)
    fresh = Run(tmp_path / "fresh", shards, "optim.lr=1e-12", "seed=7")
    assert not torch.allclose(weights(fresh), weights(plain), atol=1e-2)


def test_loss_types(shards: list[str], tmp_path: Path, plain: Run) -> None:
    """Global (the default), local, combined: each alone, then both, with the figures of each."""
    local = Run(tmp_path / "local", shards, "objective.nt_xent.weight=0", "objective.local.weight=1")
    both = Run(tmp_path / "both", shards, "objective.local.weight=1")
    told = ("nt_xent", "local", "local/right", "local/paired")
    assert [[key for key in told if key in run.rows[0]] for run in (plain, local, both)] == [[], [*told[2:]], [*told]]
    assert both.rows[0]["nt_xent"] == pytest.approx(plain.losses[0]) and both.rows[0]["local/paired"] > 0.5
    for first, second in ((plain, local), (plain, both), (local, both)):
        assert not torch.allclose(weights(first), weights(second), atol=1e-6)


def test_weights_of_the_losses(shards: list[str], tmp_path: Path, plain: Run) -> None:
    """`--global-weight`, `--local-weight`: the loss is the sum of both, each times its weight."""
    run = Run(tmp_path / "run", shards, "objective.nt_xent.weight=0.5", "objective.local.weight=3", "steps=1")
    (row,) = run.rows
    assert row["loss"] == pytest.approx(0.5 * row["nt_xent"] + 3 * row["local"])
    assert row["nt_xent"] == pytest.approx(plain.losses[0]) and row["local"] > 0


@pytest.mark.parametrize("options", ["level: pixel", "level: sample", "normalise: band", "normalise: dataset"])
def test_normalisation(shards: list[str], tmp_path: Path, plain: Run, options: str) -> None:
    run = Run(tmp_path / "run", shards, f"model.options={{dim: 48, depth: 2, heads: 3, {options}}}")
    assert run.losses != plain.losses
    key, value = options.split(": ")
    assert run.model.config[key] == value
    if key == "normalise":
        assert bool(run.model.normaliser.fitted) and float(run.model.normaliser.deviation_L.min()) > 0


def test_spectral_attention(shards: list[str], tmp_path: Path) -> None:
    run = Run(tmp_path / "run", shards, "model.embedding=spectral_attention")
    assert type(run.model.embedding).__name__ == "SpectralAttentionEmbedding" and np.isfinite(run.losses).all()


def test_gradient_checkpointing_computes_again_and_changes_nothing(
    shards: list[str], tmp_path: Path, plain: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    from specfm.models import encoder

    calls = []
    original = encoder.checkpoint
    monkeypatch.setattr(encoder, "checkpoint", lambda *a, **k: (calls.append(1), original(*a, **k))[1])
    run = Run(tmp_path / "run", shards, "model.grad_checkpointing=true")
    assert calls and np.allclose(run.losses, plain.losses, rtol=1e-5)


def test_compile(shards: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """That the key reaches the encoder; what torch.compile makes of it is measured, not tested."""
    from specfm.models.encoder import Encoder

    called = []
    monkeypatch.setattr(Encoder, "compile_parts", lambda self: called.append(1))
    train(debug_config(tmp_path / "run", shards, *STEPS, "model.compile=true"))
    assert called == [1]


@pytest.mark.parametrize("keys", [("data.threads=0",), ("data.threads=3", "data.prefetch=0")])
def test_workers_change_no_number(shards: list[str], tmp_path: Path, plain: Run, keys: tuple[str, ...]) -> None:
    assert Run(tmp_path / "run", shards, *keys).losses == plain.losses


def test_memory_is_recorded_and_shown(plain: Run) -> None:
    assert all(row["peak_memory_mb"] > 10 for row in plain.rows)
    assert any(name == "peak memory, MiB" and int(text) > 10 for name, text in summary_rows(plain.folder))


@pytest.mark.parametrize("bands", [None, "uniform:12", "pca:5"])
def test_backbones_of_timm(shards: list[str], tmp_path: Path, bands: str | None) -> None:
    """ResNet with a stem of one channel a band (or component), under NT-Xent."""
    model = "model={backbone: timm:resnet10t}"
    run = Run(tmp_path / "run", shards, model, *([] if bands is None else [f"data.bands={bands}"]))
    channels = {None: 60, "uniform:12": 12, "pca:5": 5}[bands]
    assert run.model.channels == channels and np.isfinite(run.losses).all()
    reader = ShardSet(shards).readers[0]
    x, _ = reader.read([0, 1])
    sensor = reader.sensor if bands != "uniform:12" else open_shards(run.config).readers[0].sensor
    if bands == "uniform:12":
        x = x[..., open_shards(run.config).readers[0].index_K]
    features = run.model.eval()(torch.from_numpy(x.astype(np.float32)), sensor)
    assert features.pooled_BD.isfinite().all() and features.pooled_BD.detach().std() > 0
    assert default_window(run.model) == run.card["window"] == 9  # a probe takes the window of the pretraining
    if bands == "pca:5":  # components, fitted on training data: rows of a matrix that are orthogonal
        gram = run.model.mix_KC.double() @ run.model.mix_KC.double().T
        assert torch.allclose(gram, torch.diag(gram.diagonal()), atol=1e-4 * float(gram.max()))


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        (("data.bands=pca:5",), "data.bands: pca makes components without wavelengths.*a model.backbone takes them"),
        (("data.bands=uniform:61",), "61 bands are asked for, 60 are usable"),
        (("data.bands=pink",), "bands are chosen by rgb"),
        (("model={backbone: timm:resnet10t, size: tiny}",), "model.size is of our encoder"),
        (("model={backbone: timm:resnet10t}", "whiten.batches=2"), "whiten.batches is for our encoder"),
        (("model={backbone: timm:resnet10t}", "objective.masked.weight=1"), "objective.masked is for our encoder"),
        (("model={backbone: timm:resnet10t}", "objective.latent.weight=1"), "objective.latent is for our encoder"),
        (("model={backbone: timm:resnet10t}", "data.simulated.share=0.5"), "data.simulated is for our encoder"),
        (("model={backbone: timm:nonsense}",), "no network .timm:nonsense"),
        (("model={backbone: timm:resnet10t, options: {colour: 1}}",), "does not take these"),
        (("model={backbone: timm:resnet10t}", "data.bands=pca:99"), "99 components of 60 usable bands"),
    ],
)
def test_what_cannot_be_is_refused(shards: list[str], tmp_path: Path, overrides: tuple[str, ...], message: str) -> None:
    with pytest.raises(UsageError, match=message):
        train(debug_config(tmp_path / "run", shards, *STEPS, *overrides))
    assert not (tmp_path / "run").exists()


@pytest.mark.slow
def test_a_backbone_takes_the_combined_loss_and_an_average(shards: list[str], tmp_path: Path) -> None:
    """The average has the standardisation of the encoder it follows, and a run with one goes on from a checkpoint."""
    keys = ("model={backbone: timm:vit_tiny_patch16_224, options: {stride: 3}}", "objective.local.weight=1", "ema={}")
    run = Run(tmp_path / "run", shards, *keys)
    assert run.rows[0]["local/paired"] > 0.5 and float(run.model.factor_C.min()) > 1.5
    train(debug_config(tmp_path / "run", shards, *STEPS, *keys, "steps=3"), resume=True)
    assert [row["step"] for row in read_metrics(tmp_path / "run")] == [1, 2, 3]


def test_a_backbone_serves_one_sensor(shards: list[str], tmp_path: Path) -> None:
    other = str(make_shard(tmp_path / "b.h5", "beta", 24, 24, 2))
    with pytest.raises(UsageError, match="model.backbone serves one list of bands"):
        train(debug_config(tmp_path / "run", [*shards, other], *STEPS, "model={backbone: timm:resnet10t}"))
