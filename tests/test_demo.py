"""The demo: every stage leaves its output, nothing of the user's is touched, two runs print the same numbers."""

from __future__ import annotations

import shlex
from pathlib import Path

import pytest
from typer.testing import CliRunner

from downstream.results.files import comparable, read_rows
from pretrain import demo
from specfm.cli import app
from specfm.engine.record import read_metrics
from specfm.errors import SpecfmError, UsageError


@pytest.fixture
def small(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The same road with fewer bands, materials and steps; returns overrides of its configuration."""
    monkeypatch.setattr(demo, "SENSORS", ("eo1_ali", "sentinel2_msi"))
    monkeypatch.setattr(demo, "UNSEEN", "landsat8_oli")
    monkeypatch.setattr(demo, "MATERIALS", ("grass", "clay_soil", "asphalt"))
    monkeypatch.setattr(demo, "SIZE", 40)
    monkeypatch.setattr(demo, "SPLITS", 2)
    return ["steps=4", "data.global_batch=16", "model.options={dim: 48, depth: 1, heads: 1, code_width: 32}"]


def losses(out: Path) -> list[float]:
    return [row["loss"] for row in read_metrics(out / "pretrain")]


def test_the_whole_road_ends_in_a_table_and_a_page(tmp_path: Path, small: list[str]) -> None:
    said: list[str] = []
    first = demo.run_demo(tmp_path / "a", overrides=small, say=said.append)

    assert sum("$ specfm" in line for line in said) == len(first.seconds) == 5
    assert len(losses(tmp_path / "a")) == 4
    assert {row["method"] for row in first.rows} >= {"pretrained", "random-init", "pixel spectrum", "majority class"}
    pretrained = next(row for row in first.rows if row["method"] == "pretrained")
    assert pretrained["seen"] == "unseen"
    assert pretrained["leakage"]["overlap_share"] == 0
    assert [comparable(row) for row in read_rows(tmp_path / "a" / "results.jsonl")] == [
        comparable(r) for r in first.rows
    ]
    commands = demo.demo_commands(tmp_path / "a", small)
    assert [line for line in "\n".join(said).splitlines() if "$ " in line] == [
        f"      $ {line}" for lines in commands.values() for line in lines
    ]
    page = first.report.read_text(encoding="utf-8")
    for expected in ("random-init", "landsat8_oli", "eo1_ali", "grass", "data:image/png"):
        assert expected in page


@pytest.mark.slow
def test_the_whole_road_twice_and_by_its_commands_gives_the_same_numbers(tmp_path: Path, small: list[str]) -> None:
    first, second = (demo.run_demo(tmp_path / name, overrides=small, say=lambda line: None) for name in "ab")
    assert losses(tmp_path / "a") == losses(tmp_path / "b")
    numbers = [
        [(row["method"], row["protocol"], row["oa"], row["confusion"]) for row in d.rows] for d in (first, second)
    ]
    assert numbers[0] == numbers[1]
    again = tmp_path / "c"
    for line in (line for lines in demo.demo_commands(again, small).values() for line in lines):
        done = CliRunner().invoke(app, shlex.split(line)[1:])
        assert done.exit_code == 0, f"{line}\n{done.output}"
    assert losses(again) == losses(tmp_path / "a")
    assert {row["protocol"] for row in first.rows} == {row["protocol"] for row in read_rows(again / "results.jsonl")}
    assert [(row["protocol"], row["oa"], row["confusion"]) for row in read_rows(again / "results.jsonl")] == [
        (row["protocol"], row["oa"], row["confusion"]) for row in first.rows
    ]


@pytest.mark.slow
def test_an_earlier_demo_is_not_overwritten_and_strangers_files_stay(tmp_path: Path, small: list[str]) -> None:
    (tmp_path / "shards").mkdir()
    (tmp_path / "shards" / "old").touch()
    (tmp_path / "notes.txt").write_text("mine")
    with pytest.raises(UsageError, match="shards exists"):
        demo.run_demo(tmp_path, overrides=small)
    assert (tmp_path / "shards" / "old").exists()

    demo.run_demo(tmp_path, overwrite=True, overrides=["steps=1", *small[1:]], say=lambda line: None)
    assert not (tmp_path / "shards" / "old").exists()
    assert (tmp_path / "notes.txt").read_text() == "mine"


def test_a_wrong_override_is_refused_before_any_work(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="stepz"):
        demo.run_demo(tmp_path / "out", overrides=["stepz=3"])
    assert not (tmp_path / "out").exists()


def test_a_stop_signal_ends_the_demo_too(tmp_path: Path, small: list[str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("pretrain.loop.train", lambda config: Path(config.out))  # as it ends on SIGTERM: no model/
    with pytest.raises(SpecfmError, match="stopped while pretraining"):
        demo.run_demo(tmp_path / "out", overrides=small, say=lambda line: None)
    assert not (tmp_path / "out" / "results.jsonl").exists()


@pytest.mark.slow
def test_the_demo_as_shipped_beats_its_random_init(tmp_path: Path) -> None:
    rows = demo.run_demo(tmp_path / "out", say=lambda line: None).rows
    oa = {(row["method"], row["protocol"]): row["oa"]["mean"] for row in rows}
    for protocol in ("knn1", "knn5"):  # five labels let a linear probe of random features come close
        assert oa["pretrained", protocol] > oa["random-init", protocol] + 0.05
