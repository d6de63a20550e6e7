"""`specfm probe`, `specfm embed` and `specfm report` on a small dataset card, and the errors a user meets."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from typer.testing import CliRunner, Result

import specfm
from downstream.probe.options import ProbeOptions
from specfm.cli import app
from specfm.cli.probe import title

QUICK = [
    "--seeds", "2", "--init-seeds", "1", "--window", "6", "--max-per-class", "12", "--protocol", "knn,linear",
    "--no-scratch",
]  # fmt: skip


def call(*words: str | Path) -> Result:
    return CliRunner().invoke(app, [str(w) for w in words])


def refusal(done: Result) -> str:
    """What a refused command says besides where wavelengths come from."""
    return "".join(line for line in done.output.splitlines(keepends=True) if not line.startswith("note: "))


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Eight plots of two materials as .npy files with a card, and a tiny released encoder."""
    import torch

    root = tmp_path_factory.mktemp("data")
    rng = np.random.default_rng(0)
    means = rng.uniform(0.2, 0.8, (2, 10))
    for i in range(8):
        labels = rng.integers(0, 2, (3, 4)).repeat(4, 0).repeat(4, 1)
        np.save(root / f"p{i}.npy", (means[labels] + 0.02 * rng.normal(size=(12, 16, 10))).astype(np.float32))
        np.save(root / f"p{i}_labels.npy", labels.astype(np.int32))
    bands = [f"{i + 1},{c:.1f},10" for i, c in enumerate(np.linspace(450, 900, 10))]
    (root / "bands.csv").write_text("band,centre_nm,fwhm_nm\n" + "\n".join(bands) + "\n")
    (root / "card.yaml").write_text(
        "name: toys\ndomain: toy\ntask: classification\npath: p?.npy\nwavelengths: bands.csv\n"
        "quantity: surface_reflectance\nwavelength_trust: high\nlabels: {path: '{stem}_labels.npy'}\n"
        "label_names: [oak, pine]\ngroup: '{stem}'\n"
    )
    torch.manual_seed(0)
    encoder = specfm.create_encoder("nano", patch_size=3, dim=48, depth=1, heads=3)
    seen = next(iter(specfm.load_card(root / "card.yaml").scenes())).name
    specfm.save(encoder, root / "model", {"pretraining": {"scenes": [seen], "sensors": [], "domains": []}})
    return root


def test_names_of_data_say_what_is_done_to_them(folder: Path) -> None:
    done = ProbeOptions(whole=24, bands="uniform:4", pretreatment=("snv", "sg1"))
    card = [str(folder / "card.yaml")]
    assert title(card, "*/p1", done, ("emit",)) == "toys[*/p1]@emit (bands uniform:4, whole 24, snv, sg1)"
    assert title(card, None, ProbeOptions()) == "toys"


@pytest.mark.slow
def test_a_from_scratch_row_stands_in_the_table_unless_it_takes_hours(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    words = ["probe", folder / "model", "--data", folder / "card.yaml", *QUICK[2:-1], "--seeds", "1", "--cache", "none"]

    def protocols(*more: str) -> set[str]:
        done = call(*words, *more, "--json")
        assert ("--scratch asks" in done.stderr) == (not more and large), done.stderr
        return {r["protocol"] for r in json.loads(done.stdout)}

    large = False
    assert {"knn1", "linear", "scratch"} <= protocols(), "whatever --protocol says"
    assert "scratch" not in protocols("--no-baselines")
    large = True
    monkeypatch.setattr("specfm.cli._probe.SCRATCH_ON_CPU", 10)
    assert "scratch" not in protocols()
    assert "scratch" in protocols("--scratch")
    refused = call(*words, "--protocol", "knn,scratch", "--no-scratch")
    assert refused.exit_code == 2 and "--no-scratch" in refused.stderr


def test_probe_prints_a_table_and_appends_rows(folder: Path, tmp_path: Path) -> None:
    out = tmp_path / "results.jsonl"
    done = call("probe", folder / "model", "--data", folder / "card.yaml", *QUICK, "--out", out)
    assert done.exit_code == 0, done.output
    assert "toys: split by group" in done.output and "pixel spectrum" in done.output
    rows = [json.loads(line) for line in out.read_text().splitlines()]
    assert {r["seen"] for r in rows if r["method"] == "model"} == {"scene seen"}
    again = call("probe", folder / "model", "--data", folder / "card.yaml", *QUICK, "--out", out)
    assert again.exit_code == 0
    both = [json.loads(line) for line in out.read_text().splitlines()]
    volatile = ("time", "wall_s", "versions", "hardware")
    first, second = both[: len(rows)], both[len(rows) :]
    assert first == rows
    for a, b in zip(first, second, strict=True):
        assert {k: v for k, v in a.items() if k not in volatile} == {k: v for k, v in b.items() if k not in volatile}


def test_json_few_shots_and_saved_splits(folder: Path, tmp_path: Path) -> None:
    splits = tmp_path / "splits"
    words = ["--data", folder / "card.yaml", *QUICK, "--shots", "5", "--protocol", "knn", "--json"]
    done = call("probe", "random:nano:3", *words, "--save-splits", splits)
    assert done.exit_code == 0, done.output
    rows = json.loads(done.stdout)
    assert rows[0]["shots"] == 5 and rows[0]["samples"]["train"] == 10 and rows[0]["seen"] == "-"
    assert len(list(splits.iterdir())) == 2
    files = [w for f in sorted(splits.iterdir()) for w in ("--split-file", f)]
    same = json.loads(call("probe", "random:nano:3", *words, *files).stdout)
    assert [r["oa"] for r in same] == [r["oa"] for r in rows]
    assert same[0]["digests"]["splits"] == rows[0]["digests"]["splits"]


def test_rows_say_where_samples_count_and_not_classes(folder: Path) -> None:
    words = ["random:nano:3", "--data", folder / "card.yaml", *QUICK, "--protocol", "ridge", "--no-baselines", "--json"]
    plain, other = (json.loads(call("probe", *words, *more).stdout) for more in ([], ["--class-weights", "none"]))
    assert all("--class-weights none" in " ".join(row["notices"]) for row in other)
    assert not any("--class-weights" in " ".join(row["notices"]) for row in plain)
    assert plain[0]["digests"]["config"] != other[0]["digests"]["config"]


@pytest.mark.parametrize(
    ("words", "code", "message"),
    [
        (["no-such-folder"], 1, "no-such-folder"),
        (["random:giant"], 2, "giant"),
        (["random:nano:x"], 2, "random:nano:3"),
        (["random:nano:3", "--protocol", "svm"], 2, "svm"),
        (["random:nano:3", "--split", "pixels"], 2, "random_pixels"),
        (["random:nano:3", "--window", "7"], 2, "multiple"),
        (["random:nano:3", "--scenes", "zz*"], 2, "zz*"),
        (["random:nano:3", "--group-by", "moon"], 2, "moon"),
        (["random:nano:3", "--shots", "5,many"], 2, "--shots takes whole numbers"),
        (["random:nano:3", "--shots", "0"], 2, "--shots"),
        (["random:nano:3", "--class-weights", "even"], 2, "choose one of balanced, sqrt, none"),
        (["random:nano:3", "--layers", "4"], 2, "blocks 0 to 3"),
        (["random:nano:3", "--pooling", "class"], 2, "no class token"),
        (["random:nano:3", "--pooling", "middle"], 2, "'middle'"),
        (["random:nano:3", "--peers", "dove"], 2, "unknown peer 'dove'"),
        (["random:nano:3", "--split", "sensor"], 1, "--through"),
        (["random:nano:3", "--through", "eye"], 2, "eye"),
        (["random:nano:3", "--device", "tpu"], 2, "tpu"),
        (["random:nano:3", "--cache", "{file}"], 1, "--cache"),
        (["random:nano:3", "--split-file", "{file}"], 1, "is not a split file"),
        (["random:nano:3", "--window", "0"], 2, "--window must be at least 1"),
        (["random:nano:3", "--out", "{file}/rows.jsonl"], 2, "bands.csv is not a folder"),
        (["random:nano:3", "--out", "{folder}"], 2, "is a folder; choose another --out"),
        (["random:nano:3", "--save-splits", "{file}/splits"], 2, "choose another --save-splits"),
    ],
)
def test_errors_are_one_sentence(folder: Path, words: list[str], code: int, message: str) -> None:
    words = [w.format(file=folder / "bands.csv", folder=folder) for w in words]
    done = call("probe", *words, "--data", folder / "card.yaml")
    assert done.exit_code == code, done.output
    assert message in done.output and refusal(done).count("\n") == 1 and refusal(done).startswith("error: ")


def test_one_run_with_shots_layers_sensors_and_cache(folder: Path, tmp_path: Path) -> None:
    words = ["probe", folder / "model", "--data", folder / "card.yaml", *QUICK, "--protocol", "knn,ridge", "--k", "1,3"]
    words += ["--shots", "2,5", "--layers", "0", "--pooling", "mean", "--cache", tmp_path / "bank"]
    done = call(*words)
    assert done.exit_code == 0, done.output
    assert "2 shots a class" in done.output and "AA by labels a class" in done.output and "knn3" in done.output
    kept = sorted(p.name for p in (tmp_path / "bank").iterdir())
    assert len(kept) == 2  # the encoder and its untrained twin
    again = call(*words)
    assert again.output == done.output and sorted(p.name for p in (tmp_path / "bank").iterdir()) == kept
    without = call(*words[:-1], "none")
    assert without.output == done.output
    rows = json.loads(call(*words, "--json").stdout)
    assert {r["shots"] for r in rows} == {2, 5} and rows[0]["layers"] == [0] and rows[0]["pooling"] == "mean"


def test_leave_one_sensor_out_through_a_simulated_one(folder: Path) -> None:
    words = ["--data", folder / "card.yaml", *QUICK, "--protocol", "knn", "--split", "sensor", "--cache", "none"]
    done = call("probe", folder / "model", *words, "--through", "sentinel2_msi", "--init-seeds", "0")
    assert done.exit_code == 0, done.output
    assert "toys@sentinel2_msi: split by sensor" in done.output and "AA by sensor left out" in done.output


def damaged_card(folder: Path, tmp_path: Path, **labels: np.ndarray) -> Path:
    """The card with other label files; their scenes are linked."""
    for path in folder.iterdir():
        if path.is_file() and path.name not in {f"{name}_labels.npy" for name in labels}:
            (tmp_path / path.name).write_bytes(path.read_bytes())
    for name, values in labels.items():
        np.save(tmp_path / f"{name}_labels.npy", values)
    return tmp_path / "card.yaml"


def test_labels_of_another_shape_are_refused(folder: Path, tmp_path: Path) -> None:
    card = damaged_card(folder, tmp_path, p3=np.zeros((12, 15), np.int32))
    done = call("probe", "random:nano:3", "--data", card, *QUICK)
    assert done.exit_code == 1 and refusal(done).count("\n") == 1, done.output
    assert "p3_labels.npy" in done.output and "12 x 16" in done.output


def test_a_class_of_one_sample_is_refused_or_left_out_by_name(folder: Path, tmp_path: Path) -> None:
    only = np.zeros((12, 16), np.int32)
    one = only.copy()
    one[5, 5] = 1
    card = damaged_card(folder, tmp_path, **{f"p{i}": only for i in range(7)}, p7=one)
    done = call("probe", "random:nano:3", "--data", card, *QUICK)
    assert done.exit_code == 1 and refusal(done).count("\n") == 1, done.output
    assert "'pine' left out: 1 samples in 1 groups" in done.output and "label or scan more" in done.output
    text = card.read_text().replace("[oak, pine]", "[oak, pine, rock]")
    card.write_text(text)
    for i in range(7):
        np.save(tmp_path / f"p{i}_labels.npy", np.where(np.arange(16) < 8, 0, 2) + only)
    kept = call("probe", "random:nano:3", "--data", card, *QUICK, "--protocol", "knn", "--cache", "none")
    assert kept.exit_code == 0 and "notice: class 'pine' left out: 1 samples" in kept.output, kept.output


def test_a_split_file_of_other_data_is_refused(folder: Path, tmp_path: Path) -> None:
    quick = [
        "--data", folder / "card.yaml", "--seeds", "1", "--init-seeds", "0", "--window", "6", "--protocol", "knn",
        "--no-scratch",
    ]  # fmt: skip
    done = call("probe", "random:nano:3", *quick, "--save-splits", tmp_path / "splits", "--cache", "none")
    assert done.exit_code == 0, done.output
    (file,) = (tmp_path / "splits").iterdir()
    other = call("probe", "random:nano:3", *quick, "--scenes", "toys/p[0-5]", "--split-file", file)
    assert other.exit_code == 1 and refusal(other).count("\n") == 1, other.output
    assert file.name in other.output and "other data" in other.output and "--save-splits" in other.output
    wider = call("probe", "random:nano:3", *quick, "--window", "9", "--split-file", file)
    assert wider.exit_code == 1 and "guards windows of 6" in wider.output
    blocks = call("probe", "random:nano:3", *quick, "--split", "block", "--split-file", file)
    assert blocks.exit_code == 2 and "leave --split out" in blocks.output
    fewer = call("probe", "random:nano:3", *quick, "--shots", "2", "--split-file", file)
    assert fewer.exit_code == 2 and "leave --shots out" in fewer.output


def test_embed_writes_and_refuses(folder: Path, tmp_path: Path) -> None:
    scene = ["embed", folder / "model", folder / "p0.npy", "--wavelengths", folder / "bands.csv"]
    out = tmp_path / "e.npy"
    done = call(*scene, "--out", out, "--window", "6", "--pca-png", tmp_path / "e.png")
    assert done.exit_code == 0, done.output
    assert np.load(out, allow_pickle=False).shape == (4, 6, 48) and (tmp_path / "e.png").exists()
    facts = json.loads((tmp_path / "e.json").read_text())
    assert facts["checkpoint"] and facts["patch"] == 3
    before = out.read_bytes()
    again = call(*scene, "--out", out, "--window", "6")
    assert again.exit_code == 2 and "exists" in again.output and out.read_bytes() == before
    odd = call(*scene, "--out", tmp_path / "f.npy", "--window", "7")
    assert odd.exit_code == 2 and not (tmp_path / "f.npy").exists()
    nowhere = call("embed", folder / "model", folder / "p0.npy", "--out", tmp_path / "g.npy")
    assert nowhere.exit_code == 1 and "--wavelengths" in nowhere.output


def test_report_from_results_and_card(folder: Path, tmp_path: Path) -> None:
    pytest.importorskip("jinja2")
    results, out = tmp_path / "results.jsonl", tmp_path / "r.html"
    call("probe", folder / "model", "--data", folder / "card.yaml", *QUICK, "--protocol", "knn", "--out", results)
    words = ["report", results, "--data", folder / "card.yaml", "--checkpoint", folder / "model", "--window", "6"]
    done = call(*words, "--out", out)
    assert done.exit_code == 0, done.output
    assert "Embedding scatter" in out.read_text() and "plot" not in done.output
    again = call(*words, "--out", out)
    assert again.exit_code == 2 and "exists" in again.output
    lost = call("report", tmp_path / "none.jsonl", "--out", tmp_path / "x.html")
    assert lost.exit_code == 1 and "none.jsonl" in lost.output
    alone = call("report", results, "--checkpoint", folder / "model", "--out", tmp_path / "x.html")
    assert alone.exit_code == 2 and "--data" in alone.output
