"""What is published: a wheel and an archive of the sources, which work where no checkout is near."""

from __future__ import annotations

import os
import subprocess
import sys
import sysconfig
import tarfile
import venv
import zipfile
from collections.abc import Sequence
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
pytestmark = pytest.mark.slow


def run(words: Sequence[str | Path], cwd: Path) -> str:
    """What a program printed; it sees nothing of this checkout."""
    kept = {name: value for name, value in os.environ.items() if name not in ("PYTHONPATH", "PYTHONSAFEPATH")}
    environ = {**kept, "OMP_NUM_THREADS": "1", "SPECFM_CACHE": str(cwd / "cache")}
    done = subprocess.run([str(word) for word in words], cwd=cwd, env=environ, capture_output=True, text=True)
    assert done.returncode == 0, f"{words}\n{done.stdout[-2000:]}\n{done.stderr[-4000:]}"
    return done.stdout


def build(source: Path, out: Path, target: str) -> Path:
    """The one file that was built."""
    run([sys.executable, "-m", "hatchling", "build", "-t", target, "-d", out], source)
    [built] = out.iterdir()
    return built


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return build(ROOT, tmp_path_factory.mktemp("wheel"), "wheel")


@pytest.fixture(scope="module")
def installed(wheel: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """bin of an environment that holds the wheel; its dependencies are those of this interpreter."""
    folder = tmp_path_factory.mktemp("environment")
    venv.create(folder, with_pip=True)
    bin_folder = folder / "bin"
    run([bin_folder / "python", "-m", "pip", "install", "-q", "--no-deps", "--no-index", wheel], folder)
    where = run([bin_folder / "python", "-c", "import sysconfig; print(sysconfig.get_path('purelib'))"], folder)
    # a path in a .pth file brings the packages there, and not what their own .pth files name (a checkout)
    (Path(where.strip()) / "dependencies.pth").write_text(sysconfig.get_path("purelib") + "\n")
    return bin_folder


def test_the_archive_of_the_sources_builds_the_same_wheel(wheel: Path, tmp_path: Path) -> None:
    archive = build(ROOT, tmp_path / "sdist", "sdist")
    with tarfile.open(archive) as held:
        held.extractall(tmp_path / "sources", filter="data")
    [source] = (tmp_path / "sources").iterdir()
    assert {"Makefile", "constraints.txt", "pyproject.toml", "LICENSE", "tests"} <= {p.name for p in source.iterdir()}
    again = build(source, tmp_path / "again", "wheel")
    names = [set(zipfile.ZipFile(path).namelist()) for path in (wheel, again)]
    assert names[0] == names[1]
    for needed in ("specfm/weights/", "specfm/_configs/pretrain/default.yaml", "specfm/py.typed", "LICENSE-earthlib"):
        assert any(needed in name for name in names[0]), needed
    assert not [name for name in names[0] if name.startswith(("tests/", "runs/", "notebooks/"))]


def test_the_installed_package_is_the_wheel(installed: Path, tmp_path: Path) -> None:
    where = run([installed / "python", "-c", "import specfm; print(specfm.__file__)"], tmp_path)
    assert Path(where.strip()).is_relative_to(installed.parent)
    assert run([installed / "specfm", "--version"], tmp_path).startswith("specfm ")
    assert "BAD" not in run([installed / "specfm", "doctor", "--megabytes", "8"], tmp_path)


def test_three_uses_away_from_the_checkout(installed: Path, tmp_path: Path) -> None:
    specfm = installed / "specfm"
    run([specfm, "simulate", "--out", "scenes", "--sensors", "emit,specim_fx10", "--size", "40"], tmp_path)
    cards = sorted(path.relative_to(tmp_path) for path in (tmp_path / "scenes").glob("*.yaml"))
    assert cards
    # a pretraining job
    run([specfm, "shard", *cards, "--out", "shards", "--window", "9"], tmp_path)
    run([specfm, "pretrain", "pretrain/debug.yaml", "data.shards=shards", "out=run", "steps=2"], tmp_path)
    # loading a pretrained checkpoint
    (tmp_path / "use.py").write_text(
        "import numpy as np\n"
        "import specfm\n"
        "bands = specfm.BandGrid([450.0 + 10 * n for n in range(40)])\n"
        "for name in ('run', 'real_nano'):\n"
        "    print(specfm.load(name).embed(np.random.rand(12, 12, 40).astype('float32'), bands).features_hwD.shape)\n"
    )
    assert run([installed / "python", "use.py"], tmp_path).count("(") == 2
    # linear-probe benchmarking
    said = run(
        [
            specfm,
            "probe",
            "real_nano",
            "--data",
            cards[0],
            "--protocol",
            "linear",
            "--seeds",
            "2",
            "--no-scratch",
            "--max-per-class",
            "20",
        ],
        tmp_path,
    )
    assert "real_nano" in said and "majority class" in said
