"""A scene larger than memory allows is mapped within 2 GiB."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from downstream.supervised.folder import save_task
from downstream.supervised.model import HeadSpec, TaskModel
from tests.downstream.maps.toy_maps import make_encoder

HEIGHT, WIDTH, BANDS = 10_000, 1_000, 200
NEEDED_BYTES = 8 << 30
LIMIT_BYTES = 2 << 30


def write_envi(path: Path) -> None:
    """4 GB of int16, band-interleaved by line, with fields, a slow gradient and a border without data."""
    rng = np.random.default_rng(0)
    columns = np.arange(WIDTH)
    noise = rng.integers(0, 40, (101, BANDS, WIDTH), np.int16)
    spectra = (1500 + 800 * np.sin(np.linspace(0, 3, BANDS)[None] * np.arange(1, 5)[:, None])).astype(np.int16)
    with open(path.with_suffix(".img"), "wb") as file:
        for row in range(HEIGHT):
            line = spectra[(row // 150 + columns // 130) % 4].T + noise[row % 101] + np.int16(row // 20)
            line[:, :20] = -9999
            file.write(line.astype("<i2").tobytes())
    centres = ", ".join(f"{w:.2f}" for w in np.linspace(400, 2450, BANDS))
    path.write_text(
        f"ENVI\nsamples = {WIDTH}\nlines = {HEIGHT}\nbands = {BANDS}\nheader offset = 0\nfile type = ENVI Standard\n"
        "data type = 2\ninterleave = bil\nbyte order = 0\nwavelength units = Nanometers\ndata ignore value = -9999\n"
        f"wavelength = {{{centres}}}\n"
    )


@pytest.mark.slow
def test_ten_thousand_lines_within_two_gib(tmp_path: Path) -> None:
    free = shutil.disk_usage(tmp_path).free
    if free < NEEDED_BYTES:
        pytest.skip(f"needs 8 GB of free disk for a scene of 4 GB, {free / 2**30:.1f} GiB are free")
    scene, out = tmp_path / "big.hdr", tmp_path / "map.hdr"
    try:
        write_envi(scene)
        encoder = make_encoder(patch=16, depth=1)
        save_task(TaskModel(encoder, "segmentation", ("a", "b", "c"), 128, HeadSpec()), tmp_path / "model")
        done = subprocess.run(
            [sys.executable, Path(__file__).with_name("big_scene.py"), tmp_path / "model", scene, out],
            capture_output=True, text=True, check=False,
            env={**os.environ, "PYTHONPATH": str(Path(__file__).resolve().parents[3]), "OMP_NUM_THREADS": "2"},
        )  # fmt: skip
        assert done.returncode == 0, done.stderr
        told = json.loads(done.stdout)
        print(told)
        assert told["peak_bytes"] < LIMIT_BYTES
        codes = np.fromfile(out.with_suffix(".img"), np.uint8).reshape(HEIGHT, WIDTH)
        assert (codes[:, :20] == 0).all() and (codes[:, 20:] > 0).all()

    finally:
        for file in (scene, scene.with_suffix(".img")):
            file.unlink(missing_ok=True)
