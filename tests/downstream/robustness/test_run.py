"""Conditions do to a scene what they say; a probe trained on true spectra is tested under each on the same pixels."""

from __future__ import annotations

from collections import Counter
from dataclasses import replace
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import pytest
from typer.testing import CliRunner

from downstream.probe.options import ProbeOptions
from downstream.report.figures import save_plot
from downstream.results.files import comparable, read_rows
from downstream.results.text import heading, robustness_tables
from downstream.robustness.conditions import (
    CLEAN,
    SHUFFLED,
    conditions,
    every_nth,
    noisy,
    random_half,
    rgb_bands,
    scaled,
    shuffled_wavelengths,
    simulated,
    tilted,
)
from downstream.robustness.options import RobustnessOptions
from downstream.robustness.run import Robustness, robustness
from specfm.bands import BandGrid
from specfm.cli import app
from specfm.errors import SpecfmError, UsageError
from specfm.scene import Scene
from specfm.sensors import Sensor
from specfm.simulate import MATERIALS, simulate_scene, write_simulation

NAMES = list(MATERIALS)[:3]


def ramp(bands: int = 24, side: int = 10) -> Scene:
    """Values that name their band: physical value = (band + 1) / 10, one invalid pixel, one bad band."""
    grid = BandGrid(np.linspace(450, 900, bands), np.full(bands, 20.0), np.arange(bands) != 5)
    cube = np.broadcast_to(np.arange(1, bands + 1, dtype=np.int16) * 10, (side, side, bands)).copy()
    cube[2, 3] = -99
    sensor = Sensor(grid, quantity="surface_reflectance", scale=0.01, name="ramp")
    labels = np.zeros((side, side), np.int32)
    return Scene.from_array(cube, sensor, name="ramp", nodata=-99, labels_HW=labels, label_names=["one"])


@pytest.fixture(scope="module")
def plots() -> list[Scene]:
    """Six simulated plots of three materials, each its own group."""
    found = [simulate_scene("hymap", NAMES, (15, 15), seed, name=f"plot{seed}") for seed in range(6)]
    return [scene.replace(group=scene.name) for scene in found]


def options(**changes: Any) -> RobustnessOptions:
    probe = {
        "protocols": ("knn", "linear", "scratch"), "ks": (1,), "seeds": 2, "trained_seeds": 1, "init_seeds": 1,
        "window": 3, "max_per_class": 8,
        "min_groups": 2, "draws": 100,
    }  # fmt: skip
    return RobustnessOptions(ProbeOptions(**(probe | changes.pop("probe", {}))), **changes)  # type: ignore[arg-type]


@pytest.fixture(scope="module")
def found(plots: list[Scene]) -> Robustness:
    from downstream.features.encoders import random_encoder

    encoder = random_encoder("nano", 3, patch_size=3, dim=48, depth=1, heads=3)
    return robustness(encoder, plots, options(sensors=("sentinel2_msi", "hymap")), data="plots", pretrained=False)


def test_ablations_keep_bands_with_their_own_values() -> None:
    scene = ramp()
    centre_C = scene.sensor.bands.wavelengths_nm
    for altered, count in ((rgb_bands(scene), 3), (every_nth(scene, 4), 6), (random_half(scene), 11)):
        kept = altered.sensor.bands.wavelengths_nm
        assert altered.shape == (10, 10, count) and altered.sensor.bands.valid.all() and centre_C[5] not in kept
        np.testing.assert_allclose(altered.values()[0, 0], (np.searchsorted(centre_C, kept) + 1) / 10, rtol=1e-5)
        assert not altered.mask()[2, 3] and altered.mask().sum() == 99
        np.testing.assert_array_equal(altered.read(slice(0, 2), slice(3, 5)), altered.read()[:2, 3:5])
    assert not np.array_equal(
        random_half(scene, 0).sensor.bands.wavelengths_nm, random_half(scene, 1).sensor.bands.wavelengths_nm
    )
    nir = scene.replace(sensor=scene.sensor.replace(bands=BandGrid(np.linspace(900, 1700, 24))))
    with pytest.raises(SpecfmError, match="red, green and blue"):
        rgb_bands(nir)
    with pytest.raises(SpecfmError, match="too few"):
        every_nth(scene, 20)


def test_shuffled_wavelengths_move_the_description_only() -> None:
    scene = ramp()
    wrong = shuffled_wavelengths(scene)
    np.testing.assert_array_equal(wrong.read(), scene.read())
    bands, true = wrong.sensor.bands, scene.sensor.bands
    assert (bands.wavelengths_nm != true.wavelengths_nm).mean() > 0.5
    np.testing.assert_array_equal(np.sort(bands.wavelengths_nm), true.wavelengths_nm)
    assert bands.wavelengths_nm[5] == true.wavelengths_nm[5]  # the bad band takes no part


def test_noise_has_the_stated_ratio_and_does_not_depend_on_the_window() -> None:
    scene = ramp(side=60)
    altered = noisy(scene, 20)
    values = altered.values()
    good = values[altered.mask()]
    mean_C = scene.values()[0, 0]
    np.testing.assert_allclose(mean_C / (good - mean_C).std(0), 20, rtol=0.1)
    np.testing.assert_allclose(good.mean(0), mean_C, rtol=0.01)
    np.testing.assert_array_equal(altered.read(slice(7, 20), slice(11, 30)), altered.read()[7:20, 11:30])
    assert abs(np.corrcoef(good[:, 0], good[:, 1])[0, 1]) < 0.1
    other = noisy(scene.replace(name="other"), 20).values()[3, 3]
    assert not np.allclose(other, values[3, 3]) and not altered.mask()[2, 3]


def test_light_scales_physical_values() -> None:
    scene = ramp()
    np.testing.assert_allclose(scaled(scene, 2).values(), 2 * scene.values(), rtol=1e-6)
    gain_C = (tilted(scene).values() / scene.values())[0, 0]
    np.testing.assert_allclose(gain_C, np.linspace(0.7, 1.3, 24), rtol=1e-4)


def test_simulated_sensors_need_common_coverage() -> None:
    seen = simulated(ramp(), "sentinel2_msi")
    assert seen.sensor.bands.valid.all() and 0 < seen.shape[2] < 13 and seen.sensor.bands.wavelengths_nm.max() < 950
    with pytest.raises(SpecfmError, match="lie outside"):
        simulated(ramp(), "specim_swir")


def test_shuffled_wavelengths_cost_accuracy_and_labels_stay(found: Robustness) -> None:
    cells = {(r["condition"], r["method"], r["protocol"]): r for r in found.rows}
    for method, protocol in (
        ("encoder", "linear"), ("from-scratch", "scratch"), ("random-init", "linear"), ("pixel spectrum", "linear"),
        ("mean spectrum", "linear"), ("pixel spectrum", "svm"), ("PCA-30 mean", "knn1"),
    ):  # fmt: skip
        clean, wrong = (cells[c, method, protocol]["aa"]["mean"] for c in (CLEAN, SHUFFLED))
        # .27 (from scratch) to .62 over five seeds and three instruction sets, where the clean score is .60 to .90
        assert wrong < clean - 0.15, method
    assert cells["light x 2", "encoder", "linear"]["aa"]["mean"] == cells[CLEAN, "encoder", "linear"]["aa"]["mean"]
    assert len({r["digests"]["splits"] for r in found.rows}) == 1  # one set of splits for all
    few = ("random-init", "from-scratch")  # of more runs, and of fewer
    assert {tuple(map(sum, r["confusion"])) for r in found.rows if r["method"] not in few} == {
        tuple(map(sum, cells[CLEAN, "encoder", "linear"]["confusion"]))
    }
    digests = [r["digests"]["data"] for r in found.rows if (r["method"], r["protocol"]) == ("encoder", "linear")]
    assert len(set(digests)) == len(digests) == len(conditions()) - len(("enmap", "prisma", "desis", "hyperion"))


def test_what_all_conditions_share_is_worked_out_once(plots: list[Scene], monkeypatch: pytest.MonkeyPatch) -> None:
    """Weights and the files of scenes are hashed once, not once a condition."""
    from downstream.features.encoders import random_encoder
    from downstream.results import rows
    from downstream.robustness import run

    calls: Counter[str] = Counter()

    def counted(module: ModuleType, name: str) -> None:
        real = getattr(module, name)

        def call(*given: Any, **named: Any) -> Any:
            calls[name] += 1
            return real(*given, **named)

        monkeypatch.setattr(module, name, call)

    counted(rows, "state_digest")
    counted(rows, "seen_mark")
    counted(run, "majority")
    encoder = random_encoder("nano", 3, patch_size=3, dim=48, depth=1, heads=3)
    none = options(sensors=(), snrs=(), probe={"init_seeds": 0, "protocols": ("knn",)})
    found = robustness(encoder, plots, none, data="plots", pretrained=True)
    assert calls == {"state_digest": 1, "seen_mark": 1, "majority": 1}
    assert len({r["condition"] for r in found.rows}) == len({r["digests"]["data"] for r in found.rows}) > 4


def test_skipped_conditions_say_why(found: Robustness, plots: list[Scene]) -> None:
    assert found.skipped == {"as hymap": "the scene was measured by hymap itself"}
    with pytest.raises(UsageError, match="unknown sensor|no known sensor|hymp"):
        robustness(None, plots, options(sensors=("hymp",)))
    with pytest.raises(UsageError, match="no peers"):
        options(probe={"peers": ("timm:resnet18",)}).check()


def test_a_network_of_its_own_bands_is_not_asked_about_others(plots: list[Scene]) -> None:
    from specfm import create_backbone

    network = create_backbone("small:mlp", plots[0].sensor)
    asked = options(sensors=("sentinel2_msi",), probe={"protocols": ("knn",)})
    result = robustness(network, plots, asked, pretrained=False)
    told = {row["condition"] for row in result.rows}
    assert {CLEAN, SHUFFLED, "SNR 20", "light x 2"} <= told
    with pytest.raises(UsageError, match="unknown sensor|no known sensor|hymp"):
        robustness(network, plots, options(sensors=("hymp",)), pretrained=False)
    count = int(plots[0].sensor.bands.valid.sum())
    assert result.skipped.keys() == {c.name for c in conditions(("sentinel2_msi",))} - told
    assert set(result.skipped.values()) == {f"the encoder reads nothing but the {count} bands it was built for"}


def test_a_probe_that_ignores_wavelengths_is_called_out(plots: list[Scene]) -> None:
    from tests.downstream.toy_scenes import ToyEncoder

    class Blind(ToyEncoder):
        """Reads values in stored order and never asks for wavelengths."""

        def __init__(self) -> None:
            import torch

            super().__init__(0)
            self.weight = torch.randn(400, 16, generator=torch.Generator().manual_seed(0))

    none = options(sensors=(), probe={"init_seeds": 0, "protocols": ("linear",)})
    rows = robustness(Blind(), plots, none, data="plots", name="blind", pretrained=False).rows
    alarms = {(r["condition"], r["method"]): r["alarms"] for r in rows if r["protocol"] == "linear"}
    said = "shuffled wavelengths do not lower the accuracy"
    assert said in alarms[SHUFFLED, "blind"] and said not in alarms[SHUFFLED, "pixel spectrum"]
    assert said not in alarms[CLEAN, "blind"]


@pytest.mark.slow
def test_aligned_features_of_another_sensor_have_a_probe_of_their_own(plots: list[Scene]) -> None:
    """On true spectra as the poorer of the two tells them, for the encoder, its twins and raw spectra alike."""
    from downstream.features.encoders import random_encoder
    from tests.test_library import library

    encoder = random_encoder("nano", 3, patch_size=3, depth=1)  # of its own width: narrower, it is chance
    encoder.library = library(count=300)
    short = options(sensors=("sentinel2_msi",), steps=(4,), probe={"protocols": ("knn", "linear")})
    told = {}
    for align in (None, False):
        choice = RobustnessOptions(replace(short.probe, align=align), short.sensors, short.steps, (50.0,))
        rows = robustness(encoder, plots, choice, data="plots", pretrained=False).rows
        told[align] = {(r["condition"], r["method"], r["protocol"]): r for r in rows}
    assert told[None].keys() == told[False].keys()
    sensor, noise = "as sentinel2_msi", "SNR 50"

    def aa(condition: str, method: str, align: bool | None) -> float:
        return float(told[align][condition, method, "linear"]["aa"]["mean"])

    for method in ("encoder", "random-init", "pixel spectrum"):  # differences of .11 to .39 over seeds and machines
        assert aa(sensor, method, None) > aa(sensor, method, False) + 0.05, method
    for method in ("encoder", "random-init"):  # chance is a third; .45 to .69 over five seeds
        assert aa(sensor, method, None) > 0.4, method
    # it saw the training spectra through those very bands: .06 below to .03 above the spectra as measured
    assert aa(sensor, "pixel spectrum", None) > aa(CLEAN, "pixel spectrum", None) - 0.15
    raw = ("pixel spectrum", "linear")
    for condition in (CLEAN, noise, SHUFFLED):  # no other sensor, so raw spectra have the same one probe
        assert told[None][condition, *raw]["aa"] == told[False][condition, *raw]["aa"]
    said = {key: " ".join(row["notices"]) for key, row in told[None].items()}
    own, spectrum = ("encoder", "linear"), ("pixel spectrum", "linear")
    assert "to what the poorest can tell" in said[sensor, *own] and "to what" not in said[noise, *own]
    assert "aligned by 300" in said[noise, *own] and "raw spectra" not in said[sensor, *own]
    assert "seen through its bands" in said[sensor, *spectrum] and "another sensor" not in said[noise, *spectrum]
    plain = " ".join(told[False][sensor, *spectrum]["notices"])
    assert "resampled to the bands as measured" in plain


def test_scenes_of_other_quantities_keep_their_baselines_under_every_condition(plots: list[Scene]) -> None:
    from downstream.features.encoders import random_encoder
    from tests.test_library import library

    mixed = [s.replace(sensor=s.sensor.replace(quantity="radiance")) if i % 2 else s for i, s in enumerate(plots)]
    encoder = random_encoder("nano", 3, patch_size=3, dim=48, depth=1, heads=3)
    encoder.library = library(count=60)
    short = options(sensors=("sentinel2_msi",), steps=(4,), snrs=(), probe={"protocols": ("knn",), "init_seeds": 0})
    rows = robustness(encoder, mixed, short, data="plots", pretrained=False).rows
    methods = {c: {r["method"] for r in rows if r["condition"] == c} for c in (CLEAN, "as sentinel2_msi")}
    assert methods[CLEAN] == methods["as sentinel2_msi"] >= {"pixel spectrum", "mean spectrum", "encoder"}


def test_table_and_plot(found: Robustness, tmp_path: Path) -> None:
    tables = robustness_tables(found.rows)
    methods = {(r["method"], r["protocol"]) for r in found.rows if r["method"] != "majority class"}
    assert all(table.row_count == len({r["condition"] for r in found.rows}) for table in tables)
    assert [len(table.columns) for table in tables] == [2 + 5, 2 + 5, 2 + len(methods) - 10]
    assert "leakage 0 %" in str(tables[0].title) and "[" not in str(next(iter(tables[0].columns[2].cells)))
    (wide,) = robustness_tables(found.rows, width=24 + 23 * len(methods))
    assert "[" in str(next(iter(wide.columns[2].cells)))  # intervals where they fit
    marked = robustness_tables([{**row, "leaky": True} for row in found.rows])
    assert "LEAKY" in str(marked[0].title)
    assert "tested on 'SNR 50'" in heading(next(r for r in found.rows if r["condition"] == "SNR 50"))
    save_plot(found.rows, tmp_path / "a.png")
    assert (tmp_path / "a.png").read_bytes().startswith(b"\x89PNG")
    save_plot(found.rows, tmp_path / "b.png")
    assert (tmp_path / "a.png").read_bytes() == (tmp_path / "b.png").read_bytes()
    with pytest.raises(UsageError, match="--overwrite"):
        save_plot(found.rows, tmp_path / "a.png")


@pytest.mark.slow
def test_command_appends_the_same_rows_twice(tmp_path: Path) -> None:
    cards = write_simulation(tmp_path / "scenes", ["landsat8_oli"], scenes=4, size=(12, 12), materials=NAMES)
    out, plot = tmp_path / "results.jsonl", tmp_path / "robustness.png"
    words = [
        "robustness", "random:nano:3", "--data", cards[0], "--seeds", 1, "--window", 3, "--max-per-class", 5,
        "--min-groups", 2, "--sensors", "desis", "--snr", 50, "--steps", 2, "--cache", "none", "--no-scratch",
        "--out", out, "--plot", plot,
    ]  # fmt: skip
    first = CliRunner().invoke(app, [str(w) for w in words])
    assert first.exit_code == 0, first.output
    assert "wavelengths shuffled" in first.output and plot.is_file()
    again = CliRunner().invoke(app, [str(w) for w in words])
    assert again.exit_code == 2 and "exists" in again.output
    assert CliRunner().invoke(app, [*map(str, words), "--overwrite"]).exit_code == 0
    rows = [comparable(row) for row in read_rows(out)]
    half = len(rows) // 2
    assert rows[:half] == rows[half:] and all(row["condition"] for row in rows)
