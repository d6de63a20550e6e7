"""``import specfm`` and ``specfm --help`` start nothing heavy and leave the process as it was."""

from __future__ import annotations

import ast
import json
import subprocess
import sys
from pathlib import Path

import pytest

import specfm

HEAVY = ("torch", "timm", "lightly", "h5py", "sklearn", "scipy", "matplotlib", "wandb", "rasterio", "xarray", "pandas")


def loaded_after(code: str) -> set[str]:
    """Top-level packages in ``sys.modules`` of a fresh interpreter that ran ``code``."""
    tail = "\nimport json, sys; print(json.dumps(sorted({m.split('.')[0] for m in sys.modules})))"
    done = subprocess.run([sys.executable, "-c", code + tail], capture_output=True, text=True, timeout=120, check=True)
    return set(json.loads(done.stdout.splitlines()[-1]))


@pytest.mark.parametrize(
    "code",
    [
        "import specfm",
        "import specfm; specfm.BandGrid; specfm.Sensor; specfm.known_sensors(); specfm.SpecfmError",
        "import downstream, pretrain",
        "import pretrain.config",  # a mistyped key is answered at once
        "from typer.testing import CliRunner; from specfm.cli import app; CliRunner().invoke(app, ['--help'])",
    ],
)
def test_stays_light(code: str) -> None:
    assert not loaded_after(code) & set(HEAVY)


def test_import_has_no_side_effects() -> None:
    code = """
import logging, os, random, threading, warnings
import numpy as np
random.seed(5); np.random.seed(5)
before = (random.getstate(), np.random.get_state()[1].tolist(), dict(os.environ), list(logging.root.handlers),
          logging.root.level, list(warnings.filters), threading.active_count(), os.getcwd())
import specfm, pretrain, downstream
after = (random.getstate(), np.random.get_state()[1].tolist(), dict(os.environ), list(logging.root.handlers),
         logging.root.level, list(warnings.filters), threading.active_count(), os.getcwd())
assert before == after
"""
    subprocess.run([sys.executable, "-W", "ignore", "-c", code], check=True, timeout=120)


def test_every_public_name_resolves() -> None:
    import specfm

    for name in specfm.__all__:
        assert getattr(specfm, name) is not None
    with pytest.raises(AttributeError, match="no attribute 'nosuch'"):
        _ = specfm.nosuch


def test_editors_and_type_checkers_see_every_public_name() -> None:
    stub = ast.parse((Path(specfm.__file__).parent / "__init__.pyi").read_text())
    told = {name.asname: node.module for node in stub.body if isinstance(node, ast.ImportFrom) for name in node.names}
    assert told == specfm._PUBLIC, "write specfm/__init__.pyi as _PUBLIC says"
