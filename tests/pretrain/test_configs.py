"""Every configuration of configs/pretrain is run by a test, as it is, short and on small shards."""

from __future__ import annotations

import ast
from pathlib import Path

import pytest
import torch

import specfm
from pretrain.config import PretrainConfig
from pretrain.loop import train
from specfm.config import load_config
from tests.conftest import REPOSITORY
from tests.pretrain.runs import make_shard, metrics, settings

FOLDER = REPOSITORY / "configs" / "pretrain"
# Run by a test elsewhere: the file, and the name by which that test loads the configuration.
ELSEWHERE = {
    "debug": ("tests/pretrain/runs.py", "pretrain/debug.yaml"),
    "multidomain": ("tests/pretrain/test_multidomain.py", "multidomain"),  # by the command of its name
    "specaware": ("tests/convert/test_specaware.py", "pretrain/specaware.yaml"),  # its parts and loss, in small sizes
    "specimens_bands": ("tests/pretrain/test_specimens_page.py", "specimens_bands"),
    "specimens_resnet50": ("tests/pretrain/test_specimens_page.py", "specimens_resnet50"),
}
SMALL = (
    "steps=2", "device=cpu", "data.global_batch=16", "data.domains_per_batch=2", "data.threads=1", "data.prefetch=1",
    "views.crop=6", "optim.warmup_steps=1", "whiten.batches=1", "monitor.every=0", "wandb.mode=disabled",
)  # fmt: skip
NO_WEIGHTS = "data.weights={}"  # of domains that the small shards lack
MONITORED = "monitor.every=2"
RUNS: dict[str, tuple[tuple[str, ...], set[str]]] = {
    "across_sensors": ((NO_WEIGHTS,), {"loss"}),
    "adapt": ((), {"loss"}),
    "curriculum": (("steps=6", "curriculum.repeats=1"), {"loss"}),
    "default": ((), {"loss"}),
    "distil": ((), {"loss"}),
    "long": ((NO_WEIGHTS, MONITORED), {"loss", "untrained/linear"}),
    "masked": ((), {"loss"}),
    "multi_gpu_vit_base": (
        ("model.size=nano", "model.patch_size=3", "model.compile=false", "data.divisor=2", "optim.micro_batch=4",
         "objective.nt_xent.projection={hidden: 64, dim: 32, layers: 3}"),
        {"loss"},
    ),
    "real_scenes": ((NO_WEIGHTS,), {"loss"}),
    "simulated": (("data.divisor=2",), {"loss"}),
    "specimens": ((), {"nt_xent", "local", "local/right"}),
}  # fmt: skip


@pytest.fixture(scope="module")
def shards(tmp_path_factory: pytest.TempPathFactory) -> list[str]:
    folder = tmp_path_factory.mktemp("shards")
    return [str(make_shard(folder / f"{b}.h5", f"of-{b}", b, count, b)) for b, count in ((24, 96), (60, 60))]


@pytest.mark.parametrize("name", RUNS)
def test_the_configuration_runs(tmp_path: Path, shards: list[str], name: str) -> None:
    overrides, told = RUNS[name]
    words = settings(tmp_path / "run", shards, *SMALL, *overrides)
    config = load_config(f"pretrain/{name}.yaml", PretrainConfig, words)
    out = train(config)
    assert told <= metrics(out)[-1].keys()
    encoder = specfm.load(out)
    assert all(torch.isfinite(value).all() for value in encoder.state_dict().values())
    averaged = encoder.card["weights"].startswith("running average")
    assert averaged == (config.ema is not None) == (name == "long")


def test_every_configuration_is_run_by_a_test() -> None:
    held = {path.stem for path in FOLDER.glob("*.yaml")}
    assert held == RUNS.keys() | ELSEWHERE.keys() and not RUNS.keys() & ELSEWHERE.keys()
    for name, (file, word) in ELSEWHERE.items():
        tree = ast.parse((REPOSITORY / file).read_text(encoding="utf-8"))
        texts = {node.value for node in ast.walk(tree) if isinstance(node, ast.Constant)}
        assert word in texts, f"{file} runs {name}.yaml no more"
