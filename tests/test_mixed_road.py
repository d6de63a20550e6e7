"""Files of 60, 200 and 425 bands in three formats, from the cubes to features, by the command line alone.

Shapes: H rows, W columns, C bands, D features.
"""

from __future__ import annotations

import json
import math
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from typer.testing import CliRunner

import specfm
from specfm import BandGrid, Scene, Sensor
from specfm.batch import Batch
from specfm.cli import app
from specfm.readers.own import save_scene
from tests.readers import make

HEIGHT, WIDTH, PATCH, WINDOW, STRIDE = 20, 22, 3, 9, 4
CUBES = {"drone.hdr": 60, "tower.mat": 200, "air.h5": 425}
DOMAINS = {"cubes-60": 60, "cubes-200": 200, "air": 425}
WINDOWS = ((HEIGHT - WINDOW) // STRIDE + 2) * ((WIDTH - WINDOW) // STRIDE + 2)  # the last ones end at the border


def cube(count: int, seed: int) -> tuple[np.ndarray, np.ndarray]:
    """Two smooth materials mixed at random: [H, W, C] int16 reflectance in 1/10000, and centres in nm."""
    centres = np.linspace(400, 2400, count)
    spectra_KC = np.stack([0.1 + 0.4 * np.exp(-(((centres - peak) / 300) ** 2)) for peak in (700, 1700)])
    shares_HWK = np.random.default_rng(seed).random((HEIGHT, WIDTH, 2))
    return (shares_HWK @ spectra_KC * 1e4).astype(np.int16), centres


@pytest.fixture(scope="module")
def cubes(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """One folder: ENVI (60 bands), MATLAB (200, silent about its units) and HDF5 (425)."""
    from scipy.io import savemat

    folder = tmp_path_factory.mktemp("road") / "cubes"
    folder.mkdir()
    x, centres = cube(60, 1)
    listed = "{" + ", ".join(f"{centre:.3f}" for centre in centres) + "}"
    make.envi(folder, x, "bil", name="drone.dat", wavelength=listed, reflectance_scale_factor=10000)
    x, centres = cube(200, 2)
    savemat(folder / "tower.mat", {"cube": x, "wavelength": centres})
    x, centres = cube(425, 3)
    sensor = Sensor(BandGrid(centres), quantity="surface_reflectance", scale=1e-4, name="air")
    save_scene(Scene.from_array(x, sensor, name="flight"), folder / "air.h5")
    return folder


def command(*arguments: object) -> str:
    """What a command prints on stdout; it must succeed."""
    done = CliRunner().invoke(app, [str(argument) for argument in arguments], catch_exceptions=False)
    assert done.exit_code == 0, done.stderr
    return done.stdout


@pytest.fixture(scope="module")
def shards(cubes: Path) -> Path:
    out = cubes.parent / "shards"
    told = json.loads(
        command("shard", cubes, "--units", "nm", "--out", out, "--window", WINDOW, "--stride", STRIDE, "--json")
    )
    assert {row["domain"]: (row["bands"], row["samples"]) for row in told["shards"]} == {
        domain: (count, WINDOWS) for domain, count in DOMAINS.items()
    }
    return out


@pytest.fixture(scope="module")
def trained(shards: Path) -> tuple[Path, list[Batch]]:
    """A run of one step, and the batches its loader gave it."""
    from pretrain.loader import Loader

    seen: list[Batch] = []
    original = Loader.iterate

    def watched(self: Loader, *args: Any, **kw: Any) -> Iterator[tuple[int, Batch]]:
        for step, batch in original(self, *args, **kw):
            seen.append(batch)
            yield step, batch

    out = shards.parent / "run"
    settings = [f"data.shards={shards}", f"out={out}", "steps=1", "data.global_batch=12", f"model.patch_size={PATCH}"]
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Loader, "iterate", watched)
        said = command("pretrain", "pretrain/debug.yaml", *settings)
    assert "final loss" in said and str(out / "model") in said.replace("\n", "")
    return out, seen


@pytest.mark.parametrize("name", CUBES)
def test_inspect_tells_every_format(cubes: Path, name: str) -> None:
    told = json.loads(command("inspect", cubes / name, "--units", "nm", "--json"))
    assert told["scene"]["shape"] == [HEIGHT, WIDTH, CUBES[name]] and told["scene"]["dtype"] == "int16"
    assert (told["coverage"]["low_nm"], told["coverage"]["high_nm"]) == pytest.approx((400, 2400))
    x, _ = cube(CUBES[name], 1 + list(CUBES).index(name))
    assert (told["values"]["low"], told["values"]["high"]) == (x.min(), x.max())


def test_an_envi_pair_named_twice_is_one_scene(cubes: Path) -> None:
    """``cubes/*`` of a shell names the header and the data file."""
    options = ("--units", "nm", "--window", WINDOW, "--stride", STRIDE, "--dry-run", "--json")
    told = json.loads(command("shard", *sorted(cubes.iterdir()), "--out", cubes.parent / "not-written", *options))
    assert {row["bands"]: row["scenes"] for row in told["shards"]} == {60: 1, 200: 1, 425: 1}
    assert not (cubes.parent / "not-written").exists()


def test_verify_reads_every_sample(shards: Path) -> None:
    told = json.loads(command("verify", shards, "--json"))
    assert told["ok"] and told["files"] == 3 and told["samples"] == 3 * WINDOWS


def test_one_step_takes_the_three_sensors_in_one_batch(trained: tuple[Path, list[Batch]]) -> None:
    run, batches = trained
    assert [len(part) for part in batches[0].parts] == [4, 4, 4] and len(batches[0]) == 12
    assert {part.x_BHWC.shape[1:] for part in batches[0].parts} == {(WINDOW, WINDOW, c) for c in DOMAINS.values()}
    assert len({int(part.domain_B[0]) for part in batches[0].parts}) == 3
    (row,) = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    assert row["step"] == 1 and not row["bad_step"]
    assert math.isfinite(row["loss"]) and row["loss"] > 0 and row["grad_norm"] > 0 and row["embedding/rank"] > 1


def test_the_trained_encoder_embeds_every_file(cubes: Path, trained: tuple[Path, list[Batch]]) -> None:
    run, _ = trained
    encoder = specfm.load(run)
    depth = encoder.num_features
    fields = {}
    for name in CUBES:
        out = cubes.parent / f"features-{Path(name).stem}.npy"
        said = command("embed", run, cubes / name, "--units", "nm", "--out", out)
        rows, columns = math.ceil(HEIGHT / PATCH), math.ceil(WIDTH / PATCH)
        assert f"{rows} x {columns} patches of {PATCH} px, {depth} features each" in said
        fields[name] = np.load(out)
        assert fields[name].shape == (rows, columns, depth) and np.isfinite(fields[name]).all()
        assert fields[name].reshape(-1, depth).std(0).max() > 0, "every patch has the same features"
    assert not np.array_equal(fields["drone.hdr"], fields["air.h5"])


def test_the_model_says_what_it_was_trained_on(cubes: Path, trained: tuple[Path, list[Batch]]) -> None:
    from specfm.shards.identity import scene_content

    card = json.loads((trained[0] / "model" / "card.json").read_text())
    assert set(card["domains"]) == set(DOMAINS), card
    # by content too, so that a scene of another name is known again
    read = [scene_content(specfm.read_scene(cubes / name, units="nm").replace(name="x")) for name in CUBES]
    assert card["contents"] == sorted(read)
