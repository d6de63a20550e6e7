"""``specfm.NAME`` and ``specfm NAME`` are one function: same options, same defaults, same refusals, same files."""

from __future__ import annotations

import inspect
import json
from pathlib import Path
from typing import Annotated, Any

import numpy as np
import pytest
import typer
from typer.testing import CliRunner

import specfm
from specfm.cli import COMMANDS, app
from specfm.cli._function import function, printed
from specfm.errors import SpecfmError, UsageError

PUBLIC = (
    "inspect", "shard", "pretrain", "probe", "benchmark", "finetune", "predict", "cluster", "search", "change", "embed",
    "explain", "relate", "report", "robustness",
)  # fmt: skip
OF_PRINTING = {name: {"as_json"} for name in ("inspect", "shard", "probe", "robustness")}


def of_shell(name: str) -> dict[str, Any]:
    """Options of a command as its parser has them."""
    parser: Any = typer.main.get_command(app)
    return {each.name: each for each in parser.get_command(None, name).params if each.name != "help"}


@pytest.mark.parametrize("name", PUBLIC)
def test_a_function_has_the_options_and_defaults_of_its_command(name: str) -> None:
    called = inspect.signature(getattr(specfm, name)).parameters
    shell = of_shell(name)
    assert set(shell) - set(called) == OF_PRINTING.get(name, set())
    assert set(called) <= set(shell)
    for option, parameter in called.items():
        required = parameter.default is parameter.empty
        assert required == shell[option].required, option
        assert required or parameter.default == shell[option].default, option
        by_position = shell[option].param_type_name == "argument"
        assert (parameter.kind is parameter.POSITIONAL_OR_KEYWORD) == by_position, option


@pytest.mark.parametrize("name", PUBLIC)
def test_a_function_tells_every_option_in_its_docstring(name: str) -> None:
    called = getattr(specfm, name)
    lines = [line.strip() for line in (called.__doc__ or "").splitlines()]
    for option in inspect.signature(called).parameters:
        assert any(line.startswith(f"{option} (") for line in lines), option
    assert "Args:" not in CliRunner().invoke(app, [name, "--help"]).output


def test_every_function_is_public_and_a_command() -> None:
    assert set(PUBLIC) <= set(specfm.__all__) & set(COMMANDS)


@function
def measure(
    path: Annotated[Path, typer.Argument(help="A file.")],
    more: Annotated[list[str] | None, typer.Argument(help="Settings.")] = None,
    shots: Annotated[str | None, typer.Option(help="Numbers by commas.")] = None,
    like: Annotated[list[str] | None, typer.Option(help="Pixels.")] = None,
    count: Annotated[int, typer.Option(min=1, max=9, help="How many.")] = 3,
    scale: Annotated[float | None, typer.Option(help="Factor.")] = None,
    deep: Annotated[bool, typer.Option("--deep", help="Deeply.")] = False,
) -> dict[str, Any]:
    """Give back what it was given."""
    return dict(locals())


@printed(measure)
def command(found: dict[str, Any], count: int, as_json: Annotated[bool, typer.Option("--json")] = False) -> None:
    """Print it."""
    print(json.dumps({"count": [count, found["count"]], "path": str(found["path"])}) if as_json else found["count"])


def test_values_are_what_python_has() -> None:
    pixel = {"path": Path("a.npy"), "more": None, "shots": None, "like": ["3,4"], "count": 3, "scale": None}
    assert measure("a.npy", like=(3, 4)) == {**pixel, "deep": False}
    found = measure(
        Path("b"), {"optim.lr": 1e-3, "out": Path("runs/x"), "bands": [1, 2]}, shots=[5, 10], count=np.int64(4)
    )
    assert found["more"] == ["optim.lr=0.001", 'out="runs/x"', "bands=[1, 2]"]
    assert found["shots"] == "5,10" and found["count"] == 4 and type(found["count"]) is int
    assert measure("a", like=[(3, 4), "5,6"])["like"] == ["3,4", "5,6"]
    assert measure("a", "steps=3")["more"] == ["steps=3"]
    assert measure("a", scale=2)["scale"] == 2.0 and measure("a", shots=0.5)["shots"] == "0.5"


@pytest.mark.parametrize(
    ("wrong", "sentence"),
    [
        ({"count": 0}, "measure: count is 1 to 9, not 0"),
        ({"count": "3"}, "measure: count takes a whole number, not '3'"),
        ({"count": 2.5}, "count takes a whole number"),
        ({"count": True}, "count takes a whole number"),
        ({"count": None}, "count takes a whole number, not None"),
        ({"deep": "yes"}, "deep takes True or False, not 'yes'"),
        ({"scale": "2"}, "scale takes a number, not '2'"),
        ({"path": 3}, "path takes a path, not 3"),
        ({"shots": object}, "shots takes text"),
    ],
)
def test_a_wrong_value_is_a_value_error_that_names_it(wrong: dict[str, Any], sentence: str) -> None:
    with pytest.raises(ValueError, match=sentence) as error:
        measure(**{"path": "a", **wrong})
    assert isinstance(error.value, UsageError)
    with pytest.raises(TypeError, match="unexpected keyword"):
        measure("a", clount=3)
    with pytest.raises(TypeError, match="missing"):
        measure()


def test_a_command_prints_what_the_function_returned() -> None:
    small = typer.Typer()
    small.command()(command)
    done = CliRunner().invoke(small, ["x.npy", "--count", "5", "--json"])
    assert json.loads(done.output) == {"count": [5, 5], "path": "x.npy"}
    assert CliRunner().invoke(small, ["x.npy", "--count", "12"]).exit_code == 2
    told = CliRunner().invoke(small, ["--help"]).output
    assert "Give back what it was given." in told and "Args:" not in told


@pytest.fixture(scope="module")
def scenes(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two simulated scenes with their card, and an encoder."""
    import torch

    root = tmp_path_factory.mktemp("scenes")
    done = CliRunner().invoke(
        app, ["simulate", "--out", str(root / "sim"), "--sensors", "rosis", "--size", "24", "--scenes", "3"]
    )
    assert done.exit_code == 0, done.output
    torch.manual_seed(0)
    specfm.save(specfm.create_encoder("nano", patch_size=3, dim=48, depth=1, heads=3), root / "encoder", {})
    return root


@pytest.fixture
def card(scenes: Path) -> Path:
    return next((scenes / "sim").glob("*.yaml"))


def one(card: Path) -> str:
    return f"{card}:{specfm.load_card(card).names()[0]}"


def test_maps_from_python(scenes: Path, card: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    encoder = scenes / "encoder"
    groups = specfm.cluster(encoder, one(card), out=tmp_path / "groups.npy", classes=3)
    assert groups.array.shape == groups.scene.shape[:2] and set(np.unique(groups.array)) <= {0, 1, 2, 3}
    assert groups.picture is not None and groups.picture.is_file()
    assert sum(row["share"] for row in groups.rows) == pytest.approx(1)
    found = specfm.search(encoder, one(card), like=(4, 5), out=tmp_path / "like.npy", top=2)
    assert len(found.rows) == 2 and set(found.rows[0]) == {"row", "col", "similarity", "x", "y"}
    assert found.array.shape == groups.array.shape and found.array.max() <= 1.0001
    features = specfm.embed(encoder, one(card), out=tmp_path / "features.npy")
    assert features.array.shape == tuple(features.facts["shape"]) and features.array.shape[2] == 48
    vectors = specfm.embed(encoder, card, out=tmp_path / "v.csv", per="specimen", object_threshold=0)
    assert vectors.array.shape == (len(vectors.rows), 48) and vectors.paths == [tmp_path / "v.csv"]
    changed = specfm.change(encoder, one(card), one(card), out=tmp_path / "change.npy", threshold=0.5)
    assert changed.threshold == 0.5 and set(changed.shares) == {"unchanged", "changed"}
    assert capsys.readouterr().out == ""


def test_maps_are_those_of_the_shell(scenes: Path, card: Path, tmp_path: Path) -> None:
    specfm.cluster(scenes / "encoder", one(card), out=tmp_path / "a.npy")
    done = CliRunner().invoke(app, ["cluster", str(scenes / "encoder"), one(card), "--out", str(tmp_path / "b.npy")])
    assert done.exit_code == 0, done.output
    assert (tmp_path / "a.npy").read_bytes() == (tmp_path / "b.npy").read_bytes()


def test_the_road_from_python(scenes: Path, card: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    described = specfm.inspect(card)
    assert len(described.rows) == 3 and described.refused == [] and described.rows[0]["scene"]["shape"][0] == 24
    shards = specfm.shard([card], out=tmp_path / "shards", window=6, stride=6)
    assert sum(row["samples"] for row in shards.rows) == 3 * 16
    settings = {
        "data.shards": shards.path, "out": tmp_path / "run", "steps": 2, "data.global_batch": 8, "monitor.every": 0,
        "model.options": {"dim": 48, "depth": 1, "heads": 3}, "model.patch_size": 3,
    }  # fmt: skip
    planned = specfm.pretrain("pretrain/debug.yaml", settings, dry_run=True)
    assert planned.plan[-1].endswith("nothing was written") and not (tmp_path / "run").exists()
    run = specfm.pretrain("pretrain/debug.yaml", settings)
    assert run.finished and [row["step"] for row in run.rows] == [1, 2] and specfm.load(run.model).num_features == 48
    with pytest.raises(ValueError, match="exists; choose another folder"):
        specfm.pretrain("pretrain/debug.yaml", settings)
    few: dict[str, Any] = {"window": 6, "seeds": 1, "max_per_class": 8, "init_seeds": 1, "cache": "none", "k": 1}
    result = specfm.probe(run.model, data=card, baselines=False, split="scene", out=tmp_path / "rows.jsonl", **few)
    assert {row["kind"] for row in result.rows} == {"encoder", "twin"}
    page = specfm.report(tmp_path / "rows.jsonl", out=tmp_path / "page.html")
    assert page.results == len(result.rows) and page.path.is_file()
    assert capsys.readouterr().out == ""


def test_a_refusal_is_that_of_the_shell(scenes: Path, tmp_path: Path) -> None:
    with pytest.raises(SpecfmError) as error:
        specfm.cluster(scenes / "encoder", tmp_path / "nosuch.npy", out=tmp_path / "map.npy")
    words = ["cluster", str(scenes / "encoder"), str(tmp_path / "nosuch.npy"), "--out", str(tmp_path / "map.npy")]
    assert str(error.value) in CliRunner().invoke(app, words).output


def test_workers_that_fail_are_an_error_here_and_an_exit_code_there(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The worker has said why on stderr, so the command adds no second sentence."""
    monkeypatch.setattr("specfm.engine.launch.launch", lambda *_: 4)
    monkeypatch.setattr("pretrain.setup.settled", lambda settings: settings)
    settings = {"data.shards": tmp_path / "shards", "out": tmp_path / "run"}
    with pytest.raises(SpecfmError, match="ended with exit code 4") as error:
        specfm.pretrain("pretrain/debug.yaml", settings, nproc=2)
    assert error.value.exit_code == 4
    words = [f"{key}={value}" for key, value in settings.items()]
    done = CliRunner().invoke(app, ["pretrain", "pretrain/debug.yaml", *words, "--nproc", "2"])
    assert done.exit_code == 4 and done.output == ""
