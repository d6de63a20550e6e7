"""``specfm plan``: estimates hold against what a step really takes; what does not fit is said, with what does."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from typer.testing import CliRunner

import specfm
from pretrain import setup
from pretrain.planning.memory import Load, Model, checkpointed, needed
from pretrain.planning.plan import make_plan, read_memory
from pretrain.planning.text import told
from pretrain.planning.trial import Trial
from specfm.cli import app
from specfm.errors import UsageError
from tests.pretrain.planning.live import Live
from tests.pretrain.runs import debug_config, make_shards, settings

CPU = torch.device("cpu")


@pytest.fixture(scope="module")
def shards(tmp_path_factory: pytest.TempPathFactory) -> list[str]:
    return make_shards(tmp_path_factory.mktemp("shards"))


@pytest.fixture(autouse=True)
def short(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("pretrain.planning.trial.LONGEST_S", 0.2)


@pytest.mark.parametrize(
    "overrides",
    [
        (),
        ("model.grad_checkpointing=true", "model.options.depth=6"),
        pytest.param(("optim.precision=bf16",), marks=pytest.mark.slow),
        pytest.param(("objective={masked: {}}",), marks=pytest.mark.slow),
        pytest.param(("objective={latent: {}, vicreg: {}}",), marks=pytest.mark.slow),
        pytest.param(("whiten.per=sensor", "pairs.kind=nearest_elsewhere"), marks=pytest.mark.slow),
    ],
    ids=lambda each: " ".join(each) or "as it is",
)
def test_the_estimate_covers_a_real_step_and_is_not_far_above(tmp_path, shards, overrides) -> None:
    """Against every allocation of a step, followed one by one."""
    config = setup.settled(debug_config(tmp_path / "run", shards, "data.global_batch=48", *overrides))
    trial, precision = Trial(config, 1, CPU), config.optim.precision
    kept = trial.kept(precision, False)
    model = Model.of(trial.modules, [])
    if config.model.grad_checkpointing:
        kept = checkpointed(kept, trial.kept(precision, True), model.depth)
    needs = needed(model, Load(trial.parts(), kept, trial.rows_bytes() * 48, None), 1, False)
    estimate = needs["activations"] + needs["gradients"] + needs["rows"]
    with Live() as live:
        trial._take(trial.pairs)
    assert live.peak <= estimate <= 1.6 * live.peak
    assert not (tmp_path / "run").exists()


def test_a_plan_of_several_processes(tmp_path, shards) -> None:
    config = debug_config(tmp_path / "run", shards, "data.global_batch=48", "data.divisor=4", "steps=1000")
    plan = make_plan(config, 4, memory=2e9, tflops=10.0)
    assert plan.share == 12 and sum(part.samples for part in plan.parts) == 12
    assert {part.bands for part in plan.parts} == {24, 36} and {part.tokens for part in plan.parts} == {9}
    assert plan.fits and plan.step_s == pytest.approx(plan.step_flops / 1e13)
    assert plan.wall_s == pytest.approx(1000 * plan.step_s)
    by_name = {row["setting"]: row for row in plan.rows}
    assert by_name["parallel=fsdp2"]["moments"] < by_name["as configured"]["moments"]
    assert by_name["model.grad_checkpointing=true"]["activations"] < by_name["as configured"]["activations"]
    assert not any(row["setting"].startswith("optim.micro_batch") for row in plan.rows)  # it fits
    text = "\n".join(told(plan))
    assert "48 samples a step on 4 processes: 12 each; 1000 steps" in text and "fits 2 GB" in text
    assert "at 10 TFLOP/s a process" in text and repr(plan).startswith("Plan(config=")


def test_what_does_not_fit_is_said_with_what_does(tmp_path, shards) -> None:
    config = debug_config(tmp_path / "run", shards, "data.global_batch=24")
    whole = make_plan(config).settings[0].needs
    # of a GPU with room for three quarters of the activations
    memory = (sum(whole.values()) - whole["activations"] / 4) / 0.95 + 0.8e9
    plan = make_plan(config, memory=memory)
    assert plan.fits is False
    first, small = plan.settings[:2]
    assert first.micro_batch and 16 <= first.micro_batch < 24
    assert small.name == "optim.micro_batch=16" and small.fits
    assert "it does not fit as configured; optim.micro_batch=16 does" in plan.advice()
    none = make_plan(config, memory=0.805e9)
    assert none.fits is False and "not even one sample at a time fits" in none.advice()[0]


@pytest.mark.slow
def test_the_step_is_that_of_the_configuration(tmp_path, shards) -> None:
    """Smaller views and an embedding that is held cost less, a deeper trunk more."""

    def flops(*overrides: str) -> float:
        return make_plan(debug_config(tmp_path / "run", shards, *overrides)).flops.each

    as_it_is = flops()
    assert flops("views.crop=6") < as_it_is < flops("model.options.depth=6")
    assert flops("whiten.batches=4") < 0.8 * as_it_is


def test_the_command(tmp_path: Path, shards: list[str]) -> None:
    """It writes nothing, so a folder of that name may exist."""
    words = ["plan", "pretrain/debug.yaml", *settings(tmp_path / "run", shards)]
    (tmp_path / "run").mkdir()
    done = CliRunner().invoke(app, [*words, "--json", "--memory", "805MB", "--gpus", "2"])
    assert done.exit_code == 1 and json.loads(done.stdout)["fits"] is False, done.output
    assert "measuring: memory" in done.stderr and not list((tmp_path / "run").iterdir())
    done = CliRunner().invoke(app, [*words, "--gpus", "5"])
    assert done.exit_code == 2 and "divisor to a multiple of 5" in done.stderr
    found = specfm.plan("pretrain/debug.yaml", settings(tmp_path / "run", shards))
    assert found.fits is None and found.settings[0].micro_batch is None
    assert "(give --memory to compare)" in "\n".join(told(found))


@pytest.mark.parametrize(("text", "found"), [("80GB", 80e9), ("24 GiB", 24 * 2**30), ("512mb", 512e6), ("16", 16e9)])
def test_memory_is_read(text: str, found: float) -> None:
    assert read_memory(text) == found


@pytest.mark.parametrize("text", ["", "much", "-3GB", "0GB", "3 parsecs"])
def test_what_is_no_memory(text: str) -> None:
    with pytest.raises(UsageError, match="such as 80GB"):
        read_memory(text)
