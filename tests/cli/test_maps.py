"""`specfm cluster`, `search`, `predict` and `change` as a user calls them, and the sentences they refuse with."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
from typer.testing import CliRunner, Result

import specfm
from downstream.supervised.folder import load_task, save_task
from downstream.supervised.model import CHANGE_NAMES, TaskModel
from specfm.cli import app

FIRST, OTHER, SHORT = "first.npy", "other.npy", "short.npy"


def call(*words: str | Path) -> Result:
    return CliRunner().invoke(app, [str(w) for w in words])


def refusal(done: Result) -> str:
    """What a refused command says besides where wavelengths come from."""
    return "".join(line for line in done.output.splitlines(keepends=True) if not line.startswith("note: "))


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Scenes of 10 bands (one cut short), of 14 bands, a dataset card, an encoder and models of three tasks."""
    import torch

    root = tmp_path_factory.mktemp("maps")
    rng = np.random.default_rng(0)
    for name, bands, height in ((FIRST, 10, 30), ("second.npy", 10, 30), (OTHER, 14, 30), (SHORT, 10, 27)):
        cube = rng.uniform(0.2, 0.8, (2, bands))[rng.integers(0, 2, (height // 3, 13))].repeat(3, 0).repeat(3, 1)
        cube = cube * (1 + 0.02 * rng.normal(size=cube.shape))
        cube[:4, :5] = np.nan
        np.save(root / name, cube.astype(np.float32))
    for bands in (10, 14):
        rows = [f"{i + 1},{c:.1f},10" for i, c in enumerate(np.linspace(450, 900, bands))]
        (root / f"bands{bands}.csv").write_text("band,centre_nm,fwhm_nm\n" + "\n".join(rows) + "\n")
    (root / "card.yaml").write_text(
        "name: pair\ndomain: toy\npath: '[fs]*.npy'\nexclude: [short]\nwavelengths: bands10.csv\n"
        "quantity: surface_reflectance\nwavelength_trust: high\n"
    )
    torch.manual_seed(0)
    encoder = specfm.create_encoder("nano", patch_size=3, dim=48, depth=1, heads=3)
    specfm.save(encoder, root / "encoder", {})
    save_task(TaskModel(encoder, "segmentation", ("oak", "pine"), 12), root / "segmentation", {})
    save_task(TaskModel(encoder, "classification", ("oak", "pine", "soil"), 9), root / "classification", {})
    save_task(TaskModel(encoder, "change", CHANGE_NAMES, 12, threshold=0.4), root / "change", {})
    return root


def scene(folder: Path, name: str = FIRST, bands: int = 10) -> list[str | Path]:
    return [folder / name, "--wavelengths", folder / f"bands{bands}.csv"]


def test_search_says_why_places_are_fewer(folder: Path, tmp_path: Path) -> None:
    words = ["search", folder / "encoder", *scene(folder), "--like", "10,10", "--out", tmp_path / "s.npy"]
    done = call(*words, "--top", "500")
    count = sum(" at " in line for line in done.stdout.splitlines())
    assert 0 < count < 500 and f"{count} of 500 places: " in done.stdout and "--apart" in done.stdout
    assert " places: " not in call(*words, "--top", "1", "--overwrite").stdout


def test_cluster(folder: Path, tmp_path: Path) -> None:
    done = call("cluster", folder / "encoder", *scene(folder), "--out", tmp_path / "c.npy", "--classes", "3")
    assert done.exit_code == 0, done.output
    assert "30 x 39 pixels" in done.output and "cluster 1" in done.output and (tmp_path / "c.png").exists()
    codes = np.load(tmp_path / "c.npy", allow_pickle=False)[..., 0]
    assert (codes[:4, :5] == 0).all() and codes.max() == 3 and (codes == 0).sum() == 20


def test_search(folder: Path, tmp_path: Path) -> None:
    words = ["search", folder / "encoder", *scene(folder), "--out", tmp_path / "s.npy", "--top", "3"]
    done = call(*words, "--like", "20,20", "--like", "10,11")
    assert done.exit_code == 0, done.output
    assert len([line for line in done.output.splitlines() if " at " in line]) == 3
    assert (tmp_path / "s.png").read_bytes().startswith(b"\x89PNG")
    bad = call(*words, "--like", "20")
    assert bad.exit_code == 2 and "ROW,COL" in bad.output
    lost = call(*words, "--like", "2,2", "--overwrite")
    assert lost.exit_code == 1 and "no data" in lost.output and (tmp_path / "s.npy").exists()


@pytest.mark.parametrize("task", ["segmentation", "classification"])
def test_predict(folder: Path, tmp_path: Path, task: str) -> None:
    words = ["predict", folder / task, *scene(folder), "--out", tmp_path / "m.npy"]
    done = call(*words, "--probabilities", tmp_path / "p.npy")
    assert done.exit_code == 0, done.output
    names = ("oak", "pine", "soil")[: 2 if task == "segmentation" else 3]
    assert all(f"%  {name}" in done.output for name in names)
    codes, p = (np.load(tmp_path / f"{name}.npy", allow_pickle=False) for name in "mp")
    assert codes.shape == (30, 39, 1) and p.shape == (30, 39, len(names))
    np.testing.assert_array_equal(np.isnan(p).all(-1), codes[..., 0] == 0)
    before = (tmp_path / "m.npy").read_bytes()
    again = call(*words)
    assert again.exit_code == 2 and "m.npy exists" in again.output and (tmp_path / "m.npy").read_bytes() == before
    assert call(*words, "--overwrite").exit_code == 0


def test_a_scene_of_a_sensor_that_the_model_does_not_know_is_named(folder: Path, tmp_path: Path) -> None:
    save_task(load_task(folder / "segmentation"), tmp_path / "model", {"sensors": ["neon_ais"]})
    done = call("predict", tmp_path / "model", *scene(folder), "--out", tmp_path / "m.npy")
    assert done.exit_code == 0 and "learnt from neon_ais" in done.output


@pytest.mark.parametrize("option", ["--align", "--seed=3"])
def test_options_of_encoders_are_refused_with_a_change_model(folder: Path, tmp_path: Path, option: str) -> None:
    words = ["change", folder / "change", folder / FIRST, folder / OTHER, "--out", tmp_path / "c.npy", option]
    done = call(*words, "--wavelengths", folder / "bands10.csv", "--wavelengths-after", folder / "bands14.csv")
    assert done.exit_code == 2 and "is for encoders" in done.output


@pytest.mark.parametrize("model", ["encoder", "change"])
def test_change_between_sensors(folder: Path, tmp_path: Path, model: str) -> None:
    words = ["change", folder / model, folder / FIRST, folder / OTHER, "--wavelengths", folder / "bands10.csv"]
    words += ["--wavelengths-after", folder / "bands14.csv", "--probabilities", tmp_path / "p.npy"]
    done = call(*words, "--out", tmp_path / "c.npy")
    assert done.exit_code == 0, done.output
    assert "%  changed" in done.output and ("Otsu" in done.output) == (model == "encoder")
    assert model == "encoder" or "above 0.4000" in done.output
    codes = np.load(tmp_path / "c.npy", allow_pickle=False)[..., 0]
    assert (codes[:4, :5] == 0).all() and codes.max() <= 2


def test_scenes_of_a_card_are_named(folder: Path, tmp_path: Path) -> None:
    card = folder / "card.yaml"
    one = call("cluster", folder / "encoder", f"{card}:first", "--out", tmp_path / "c.npy", "--no-preview")
    assert one.exit_code == 0, one.output
    two = call("change", folder / "encoder", f"{card}:first", f"{card}:second", "--out", tmp_path / "d.npy")
    assert two.exit_code == 0, two.output
    for name in (str(card), f"{card}:third"):
        bad = call("cluster", folder / "encoder", name, "--out", tmp_path / "e.npy")
        assert bad.exit_code == 2 and "first, second" in bad.output and refusal(bad).count("\n") == 1


@pytest.mark.parametrize(
    ("words", "code", "message"),
    [
        (["predict", "change", FIRST], 2, "specfm change"),
        (["predict", "encoder", FIRST], 1, "holds an encoder"),
        (["cluster", "segmentation", FIRST], 1, "holds a task model"),
        (["change", "segmentation", FIRST, "second.npy"], 1, "segmentation model"),
        (["change", "change", FIRST, SHORT], 1, "30 x 39 and 27 x 39"),
        (["change", "encoder", FIRST, SHORT], 1, "30 x 39 and 27 x 39"),
        (["change", "change", FIRST, "second.npy", "--window", "9"], 2, "12 pixels"),
        (["predict", "segmentation", OTHER], 1, "14 bands"),
        (["predict", "segmentation", FIRST, "--stride", "70"], 2, "stride"),
        (["predict", "nothing", FIRST], 1, "nothing"),
        (["cluster", "encoder", "none.npy"], 1, "none.npy"),
        (["cluster", "encoder", FIRST, "--window", "7"], 2, "multiple"),
        (["cluster", "encoder", FIRST, "--device", "cuda"], 2, "no such CUDA device"),
        (["predict", "segmentation", FIRST, "--device", "cuda"], 2, "no such CUDA device"),
        (["predict", "segmentation", FIRST, "--device", "gpu"], 2, "unknown device 'gpu'"),
        (["embed", "encoder", FIRST, "--pca-tif", "{out}/x.npy", "--overwrite"], 2, "another --pca-tif"),
        (["embed", "encoder", FIRST, "--pca-png", "{out}/x.npy", "--overwrite"], 2, "another --pca-png"),
        (["change", "change", FIRST, "second.npy", "--threshold", "nan"], 2, "the probability is 0 to 1"),
        (["change", "encoder", FIRST, "second.npy", "--threshold", "3"], 2, "the distance is 0 to 2"),
    ],
)
def test_refusals_are_one_sentence_and_leave_nothing(
    folder: Path, tmp_path: Path, words: list[str], code: int, message: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("torch.cuda.device_count", lambda: 0)
    command, model, *rest = words
    rest = [str(folder / word) if word.endswith(".npy") and "/" not in word else word for word in rest]
    rest = [word.format(out=tmp_path) for word in rest]
    done = call(command, folder / model, *rest, "--wavelengths", folder / "bands10.csv", "--out", tmp_path / "x.npy")
    assert done.exit_code == code, done.output
    assert message in done.output and refusal(done).startswith("error: ") and refusal(done).count("\n") == 1
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("words", [["--seed", "-1"], ["--batch-size", "0"], ["--stride", "-3"], ["--classes", "1"]])
def test_numbers_out_of_range_are_usage_errors(folder: Path, tmp_path: Path, words: list[str]) -> None:
    done = call("cluster", folder / "encoder", *scene(folder), *words, "--out", tmp_path / "x.tif")
    assert done.exit_code == 2 and words[0] in done.output and "Traceback" not in done.output
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("words", [["embed", "encoder"], ["predict", "segmentation"]])
def test_a_scene_without_data_is_said(folder: Path, tmp_path: Path, words: list[str]) -> None:
    np.save(tmp_path / "empty.npy", np.full((12, 12, 10), np.nan, np.float32))
    bands = ["--wavelengths", folder / "bands10.csv"]
    done = call(words[0], folder / words[1], tmp_path / "empty.npy", *bands, "--out", tmp_path / "x.npy")
    assert done.exit_code == 0 and "empty.npy has no pixel with data" in done.output, done.output


@pytest.mark.parametrize("words", [["predict", "segmentation"], ["cluster", "encoder"]])
def test_a_scene_without_wavelengths_is_refused_with_the_remedy(folder: Path, tmp_path: Path, words: list[str]) -> None:
    done = call(words[0], folder / words[1], folder / FIRST, "--out", tmp_path / "x.tif")
    assert done.exit_code == 1 and "--wavelengths" in done.output and list(tmp_path.iterdir()) == []
    odd = call(words[0], folder / words[1], *scene(folder), "--out", tmp_path / "x.jpg")
    assert odd.exit_code == 2 and "suffix" in odd.output and list(tmp_path.iterdir()) == []


def test_an_encoder_is_fitted_to_what_is_mapped(folder: Path, tmp_path: Path) -> None:
    """Maps differ from those of the encoder as it is, and say what it was fitted on; task models are left alone."""
    import json

    words = {
        "embed": ["embed", folder / "encoder", *scene(folder)],
        "cluster": ["cluster", folder / "encoder", *scene(folder), "--classes", "2"],
        "search": ["search", folder / "encoder", *scene(folder), "--like", "10,10"],
        "change": ["change", folder / "encoder", folder / FIRST, folder / "second.npy", *scene(folder)[1:],
                   "--probabilities", tmp_path / "distance.npy"],
    }  # fmt: skip
    for name, command in words.items():
        made = []
        for how in ("--no-fit", "--fit"):
            out = tmp_path / f"{name}{how}.npy"
            done = call(*command, how, "--out", out, "--overwrite")
            assert done.exit_code == 0, done.output
            made.append((np.load(out), json.loads(out.with_suffix(".json").read_text())))
        (plain, told_plain), (fitted, told) = made
        assert told_plain["fitted"] is None and told["fitted"]["labels"] is None
        assert told["fitted"]["scenes"][0]["name"] == "first"
        assert name == "cluster" or not np.array_equal(plain, fitted, equal_nan=True)
    change = ["change", folder / "change", folder / FIRST, folder / "second.npy", *scene(folder)[1:]]
    done = call(*change, "--fit", "--out", tmp_path / "refused.npy")
    assert done.exit_code == 2 and "--fit is for encoders" in done.output


@pytest.mark.slow
def test_maps_of_every_pixel(folder: Path, tmp_path: Path) -> None:
    """An encoder with pixel tokens resolves single pixels; so does one with patches of one pixel. Others refuse."""
    import torch

    torch.manual_seed(0)
    sizes = {"dim": 48, "depth": 1, "heads": 3}
    specfm.save(specfm.create_encoder("nano", patch_size=3, pixel=True, **sizes), tmp_path / "pixel", {})
    specfm.save(specfm.create_encoder("nano", patch_size=1, **sizes), tmp_path / "one", {})
    for name, more in (("pixel", ["--pixels", "--fit"]), ("one", ["--fit"])):
        done = call("embed", tmp_path / name, *scene(folder), "--out", tmp_path / f"{name}.npy", *more)
        assert done.exit_code == 0 and "30 x 39" in done.output, done.output
        features = np.load(tmp_path / f"{name}.npy")
        assert features.shape == (30, 39, 48) and np.isfinite(features[10:]).all()
        assert np.isnan(features[:4, :5]).all() and np.isfinite(features[4, 5:]).all()
        clusters = tmp_path / f"{name}_clusters.npy"
        done = call("cluster", tmp_path / name, *scene(folder), "--out", clusters, "--classes", "2", *more)
        assert done.exit_code == 0, done.output
        cube = np.load(folder / FIRST)
        first_K = cube[10, 10]
        same = np.linalg.norm(cube[9:] - first_K, axis=-1) < 0.1 * np.linalg.norm(first_K)
        codes = np.load(clusters)[..., 0]
        found = codes[9:] == codes[10, 10]
        assert (same == found).mean() > 0.95
        like = tmp_path / f"{name}_like.npy"
        done = call("search", tmp_path / name, *scene(folder), "--like", "10,10", "--out", like, *more)
        assert done.exit_code == 0, done.output
        assert np.load(like)[10, 10, 0] == pytest.approx(1, abs=1e-3)
    done = call("embed", folder / "encoder", *scene(folder), "--out", tmp_path / "no.npy", "--pixels")
    assert done.exit_code == 2 and "no token of single pixels" in done.output


def test_predict_with_a_head_that_looks_at_single_pixels(folder: Path, tmp_path: Path) -> None:
    import torch

    from downstream.supervised.model import HeadSpec

    torch.manual_seed(0)
    encoder = specfm.create_encoder("nano", patch_size=3, dim=48, depth=1, heads=3, pixel=True)
    for kind, pooling in (("linear", "mean+pixel"), ("pooled", "pixel+centre"), ("pooled", "pixel")):
        model = TaskModel(encoder, "classification", ("oak", "pine"), 9, HeadSpec(kind, pooling=pooling)).eval()
        window = torch.rand(2, 9, 9, 10) + 0.2
        grid = specfm.BandGrid(np.linspace(450, 900, 10), np.full(10, 10.0))
        from downstream.supervised.views import View

        view = View(window, grid)
        with torch.no_grad():
            dense = model.dense_scores(view)
            assert dense.shape == (2, 2, 9, 9)
            torch.testing.assert_close(dense[:, :, 4, 4], model(view), rtol=1e-4, atol=1e-5)
            assert not torch.allclose(dense[:, :, 4, 4], dense[:, :, 4, 5])
        save_task(model, tmp_path / f"{kind}-{pooling}", {})
        out = tmp_path / f"{kind}-{pooling}.npy"
        done = call("predict", tmp_path / f"{kind}-{pooling}", *scene(folder), "--out", out)
        assert done.exit_code == 0, done.output
        assert np.load(out).shape[:2] == (30, 39)
    with pytest.raises(specfm.UsageError, match="no pixel tokens"):
        plain = specfm.create_encoder("nano", patch_size=3, dim=48, depth=1, heads=3)
        TaskModel(plain, "classification", ("oak", "pine"), 9, HeadSpec("pooled", pooling="pixel"))


def test_maps_of_what_nobody_said_was_measured_are_told_by_every_command(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    learnt = {"quantities": ["surface_reflectance"]}
    for task in ("segmentation", "change"):
        save_task(load_task(folder / task), tmp_path / task, learnt)
    facts = SimpleNamespace(kind="segmentation", taught=learnt, weights="", threshold=None)
    monkeypatch.setattr("specfm.deploy.runtime.Deployed", lambda path, threads: SimpleNamespace(path=path, facts=facts))
    monkeypatch.setattr("downstream.deploy.run.run_to_file", lambda *args, **words: {"oak": 1.0})
    said = "does not say what was measured, and the model learnt from surface_reflectance"
    one, two = scene(folder), scene(folder, "second.npy")
    for words in (
        ["predict", tmp_path / "segmentation", *one],
        ["run", tmp_path / "exported.onnx", *one],
        ["change", tmp_path / "change", one[0], *two],
    ):
        for more, times in (([], 2 if words[0] == "change" else 1), (["--quantity", "surface_reflectance"], 0)):
            done = call(*words, *more, "--out", tmp_path / "map.npy", "--stride", "6", "--no-preview", "--overwrite")
            assert done.exit_code == 0, done.output
            assert done.stderr.count(said) == times, words[0]
