"""The configuration of a run and the shipped presets."""

from __future__ import annotations

import math
import re

import pytest
from typer.testing import CliRunner

from pretrain.config import PretrainConfig
from pretrain.objectives.registry import OBJECTIVES
from specfm.cli import app
from specfm.config import _classes_in, load_config, to_yaml
from specfm.errors import UsageError
from specfm.models.registry import EMBEDDINGS, SIZES
from tests.conftest import REPOSITORY

PRESETS = sorted((REPOSITORY / "configs" / "pretrain").glob("*.yaml"))


@pytest.mark.parametrize("path", PRESETS, ids=[path.name for path in PRESETS])
def test_every_preset_is_valid_and_begins_with_its_command(path, tmp_path):
    config = load_config(path, PretrainConfig)
    assert config.model.size in SIZES and config.model.embedding in EMBEDDINGS
    first = path.read_text().splitlines()[0]
    assert re.match(r"# specfm (pretrain|multidomain) ", first)
    head = path.read_text().partition("\nout:")[0]
    assert "# Cost" in head and re.search(r"Should reach|Reached|Reaches", head)
    again = tmp_path / "resolved.yaml"
    again.write_text(to_yaml(config))
    assert load_config(again, PretrainConfig) == config


def test_every_key_says_what_it_is():
    """A key is explained by its description or by its section's docstring."""
    for name, field in PretrainConfig.model_fields.items():
        section = field.annotation
        assert field.description or getattr(section, "__doc__", None) or name in ("seed", "steps", "device"), name


def test_one_name_may_stand_for_a_list():
    config = load_config(None, PretrainConfig, ["out=a", "data.shards=one", "data.exclude=x"])
    assert config.data.shards == ("one",) and config.data.exclude == ("x",)


@pytest.mark.parametrize(("batch", "divisor"), [(256, 8), (12, 4), (10, 2), (9, 1)])
def test_the_divisor_follows_from_the_batch_alone(batch, divisor):
    config = load_config(None, PretrainConfig, ["out=a", "data.shards=x", f"data.global_batch={batch}"])
    assert config.data.part_divisor == divisor


def test_what_others_call_a_key_leads_to_a_key_that_is_there():
    for there in PretrainConfig.other_names.values():
        for path in there.split(" or "):
            model = PretrainConfig
            for name in path.split("."):
                assert name in model.model_fields, path
                kinds = _classes_in(model.model_fields[name].annotation)
                inner = [each for each in kinds if hasattr(each, "model_fields")]
                model = inner[0] if inner else model


def test_help_names_every_objective():
    told = CliRunner().invoke(app, ["pretrain", "--help"]).output
    for name in OBJECTIVES:
        assert re.search(rf"\b{name}\b", told), name


def test_epochs_become_steps(tmp_path):
    from pretrain.setup import settled
    from specfm.shards import ShardSet
    from tests.pretrain.runs import make_shards

    shards = make_shards(tmp_path)
    given = ["out=a", f"data.shards=[{', '.join(shards)}]", "data.global_batch=8", "epochs=1.5"]
    config = settled(load_config(None, PretrainConfig, given))
    assert config.epochs is None and config.steps == math.ceil(1.5 * (len(ShardSet(shards)) // 8))
    halved = settled(load_config(None, PretrainConfig, [*given, "curriculum.budget=.5"]))
    assert halved.steps == round(config.steps * 0.5) and settled(halved) == halved


@pytest.mark.parametrize(
    ("override", "words"),
    [
        ("objective.nt_xent.negatives.cosin=0.9", "did you mean objective.nt_xent.negatives.cosine?"),
        ("objective.nt_xent.temperature=0.001", "objective.nt_xent.temperature"),
        ("objective.temperature=0.1", "write objective.nt_xent.temperature"),
        ("temperature=0.1", "did you mean objective.nt_xent.temperature or objective.local.temperature?"),
        ("batch_size=8", "here it is data.global_batch"),
        ("data.batch_size=8", "here it is data.global_batch"),
        ("learning_rate=1", "here it is optim.lr"),
        ("lr=1", "did you mean optim.lr?"),
        ("epochs=0", "epochs"),
        ("optim.min_lr=1", "optim.min_lr 1.0 is above optim.lr"),
        ("optim.precision=fp16", "optim.precision"),
        ("data.divisor=7", "not a multiple of data.divisor 7"),
        ("seed=99999999999999999999", "seed: input should be less than"),
        ("schedule.strength_end=2", "schedule.strength_end"),
        ("objective={masked: {window_start: .5}}", "masked.window_start is the share .* give both, or neither"),
        ("objective={masked: {window_steps: 9}}", "masked.window_start is the share .* give both, or neither"),
        ("objective={masked: {range_share: .5}}", "masked.range_share does nothing with masked.mask=patches"),
        ("objective={masked: {mask: ranges, ratio: .5}}", "masked.ratio does nothing with masked.mask=ranges"),
        ("model.options.patch_size=3", "model.options: set patch_size beside options"),
    ],
)
def test_values_that_cannot_work_are_refused(override, words):
    with pytest.raises(UsageError, match=words.replace("?", r"\?")):
        load_config(None, PretrainConfig, ["out=a", "data.shards=x", override])


@pytest.mark.parametrize("whiten", [{"batches": 2}, {"per": "sensor"}])
def test_a_trunk_without_a_stem_is_not_whitened(whiten):
    values = {"out": "-", "data": {"shards": "-"}, "model": {"options": {"trunk": "mae"}}, "whiten": whiten}
    with pytest.raises(ValueError, match="whiten needs a stem; leave whiten.per and whiten.batches out"):
        PretrainConfig.model_validate(values)


def test_objectives_that_weigh_nothing_are_not_replaced_by_another():
    values = {"out": "-", "data": {"shards": "-"}}
    with pytest.raises(ValueError, match="masked given with weight 0 alone"):
        PretrainConfig.model_validate(values | {"objective": {"masked": {"weight": 0}}})
    both = PretrainConfig.model_validate(values | {"objective": {"masked": {"weight": 0}, "vicreg": {}}})
    assert list(both.objective.chosen()) == ["vicreg"]
    assert list(PretrainConfig.model_validate(values).objective.chosen()) == ["nt_xent"]


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"data": {"shards": "-", "simulated": {}}}, "no noise of data.simulated"),
        ({"curriculum": {"stages": 2}}, "measured in all bands; set curriculum.start_bands=1"),
    ],
)
def test_whitened_targets_are_of_samples_whose_noise_is_known(changes, words):
    values = {"out": "-", "data": {"shards": "-"}, "objective": {"masked": {"target": "whitened"}}}
    with pytest.raises(ValueError, match=words):
        PretrainConfig.model_validate(values | changes)
    plain = values | {"curriculum": {"stages": 2, "start_bands": 1.0}}
    assert PretrainConfig.model_validate(plain).curriculum is not None
