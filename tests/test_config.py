"""Strict configurations: what is accepted, and the one sentence for what is not (fault 36)."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from specfm.config import Strict, config_roots, differences, digest, find_config, load_config, to_yaml
from specfm.errors import UsageError


class Optim(Strict):
    lr: float = 1e-3
    betas: tuple[float, float] = (0.9, 0.95)


class Run(Strict):
    out: str
    steps: int = 10
    optim: Optim = Optim()
    other: Optim | None = None
    many: tuple[Optim, ...] = ()


@pytest.fixture
def write(tmp_path):
    def _write(text: str) -> Path:
        path = tmp_path / "run.yaml"
        path.write_text(text)
        return path

    return _write


def test_yaml_and_overrides_are_typed(write):
    config = load_config(
        write("out: a\noptim: {lr: 1e-4}\n"), Run, ["steps=20", "optim.betas=[0.5, 0.6]", "other.lr=2"]
    )
    assert (config.out, config.steps, config.optim.lr) == ("a", 20, 1e-4)
    assert config.optim.betas == (0.5, 0.6)
    assert config.other == Optim(lr=2.0)


def test_later_overrides_win_and_nulls_become_sections(write):
    config = load_config(write("out: a\noptim:\n"), Run, ["optim.lr=1", "optim.lr=2"])
    assert config.optim.lr == 2.0


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("out: a\nsteps: 1\nstepz: 2\n", ["run.yaml", "unknown key stepz", "did you mean steps?"]),
        ("out: a\noptim: {lrr: 1}\n", ["unknown key optim.lrr", "did you mean optim.lr?"]),
        ("out: a\nother: {betaz: 1}\n", ["unknown key other.betaz", "did you mean other.betas?"]),
        ("out: a\nmany: [{lr: 1}, {zzz: 2}]\n", ["unknown key many.1.zzz", "known keys here: betas, lr"]),
        ("out: a\nsteps: many\n", ["steps", "valid integer", "'many'"]),
        ("out: a\noptim: {betas: [1]}\n", ["optim.betas.1"]),
        ("out: a\noptim: {lr: .nan}\n", ["optim.lr", "finite"]),
        ("steps: 1\n", ["key out is missing"]),
        ("out: a\nout: b\n", ["out is given twice (line 2)"]),
        ("out: a\noptim:\n  lr: 1\n  lr: 2\n", ["optim.lr is given twice"]),
        ("[1, 2]\n", ["holds a list"]),
        ("out: [\n", ["not plain YAML"]),
        ("out: !!python/object/apply:os.system ['touch owned']\n", ["not plain YAML"]),
    ],
)
def test_wrong_files_are_refused_by_one_sentence(write, text, words):
    with pytest.raises(UsageError) as caught:
        load_config(write(text), Run)
    message = str(caught.value)
    assert "\n" not in message
    for word in words:
        assert word in message
    assert caught.value.exit_code == 2


@pytest.mark.parametrize(
    ("override", "words"),
    [
        ("steps", "not of the form key=value"),
        ("=3", "not of the form key=value"),
        ("optim.lrr=3", "did you mean optim.lr?"),
        ("out.sub=3", "out is a value, not a section"),
        ("steps=[", "not plain YAML"),
    ],
)
def test_wrong_overrides_are_refused(write, override, words):
    with pytest.raises(UsageError, match=words.replace("?", r"\?")):
        load_config(write("out: a\n"), Run, [override])


def test_a_wrong_value_is_blamed_on_where_it_was_written(write):
    good, bad = write("out: a\n"), ["optim.lr=fast", "steps=20"]
    with pytest.raises(UsageError, match=r"^the command line: optim\.lr"):
        load_config(good, Run, bad)
    with pytest.raises(UsageError, match=r"run\.yaml: steps"):
        load_config(write("out: a\nsteps: many\n"), Run, ["optim.lr=1"])
    with pytest.raises(UsageError, match=r"run\.yaml: "):
        load_config(write("out: a\nsteps: many\n"), Run, ["optim.lr=fast"])


def test_resolved_config_reads_back_and_has_a_stable_digest(write, tmp_path):
    config = load_config(write("out: a\noptim: {lr: 1e-7}\nmany: [{lr: 3}]\n"), Run)
    again = tmp_path / "again.yaml"
    again.write_text(to_yaml(config))
    assert load_config(again, Run) == config
    assert digest(config) == digest(load_config(again, Run)) and len(digest(config)) == 16
    assert digest(config) != digest(load_config(again, Run, ["steps=11"]))


def test_differences_are_dotted():
    assert differences({"a": {"b": 1, "c": 2}, "d": 3}, {"a": {"b": 1, "c": 4}}) == {"a.c": (2, 4), "d": (3, None)}


def test_configs_are_instances_that_cannot_be_changed():
    with pytest.raises(ValueError, match="frozen"):
        Run(out="a").steps = 3


def test_find_config_in_the_checkout(repository, monkeypatch, tmp_path):
    monkeypatch.chdir(tmp_path)
    assert find_config("pretrain/debug.yaml") == repository / "configs" / "pretrain" / "debug.yaml"
    assert find_config("configs/pretrain/debug") == repository / "configs" / "pretrain" / "debug.yaml"
    with pytest.raises(UsageError, match="did you mean .*pretrain/debug.yaml"):
        find_config("pretrain/debig.yaml")
    with pytest.raises(UsageError, match="does not exist"):
        find_config("../../etc/passwd")


def test_find_config_in_an_installed_package(repository, tmp_path):
    """In a wheel the configurations lie inside the package; a neighbouring folder named configs is none of them."""
    package = tmp_path / "site" / "specfm"
    (package / "_configs" / "pretrain").mkdir(parents=True)
    (tmp_path / "site" / "configs").mkdir()
    for name in ("__init__.py", "config.py", "digests.py", "documents.py", "errors.py", "limits.py"):
        (package / name).write_text((repository / "specfm" / name).read_text())
    (package / "_configs" / "pretrain" / "debug.yaml").write_text("steps: 1\n")
    code = "from specfm.config import *; print(find_config('pretrain/debug.yaml')); print(len(config_roots()))"
    done = subprocess.run(
        [sys.executable, "-c", code],
        env={**os.environ, "PYTHONPATH": str(tmp_path / "site")},
        cwd=tmp_path,
        capture_output=True,
        text=True,
        check=True,
    )
    assert done.stdout.split() == [str((package / "_configs" / "pretrain" / "debug.yaml").resolve()), "1"]


def test_checkout_has_one_root(repository):
    assert config_roots()[0] == repository / "configs"
