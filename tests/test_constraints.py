"""The tested set of versions: plain pins, each of which the oldest Python that specfm supports can install."""

from __future__ import annotations

import re
import tomllib
from importlib import metadata
from pathlib import Path

from packaging.specifiers import SpecifierSet

ROOT = Path(__file__).resolve().parents[1]
PINS = [line for line in (ROOT / "constraints.txt").read_text().splitlines() if line and not line.startswith("#")]


def test_pins_are_plain_and_each_stands_once() -> None:
    assert PINS and not [pin for pin in PINS if not re.fullmatch(r"[A-Za-z0-9._-]+==[A-Za-z0-9.+!]+", pin)]
    names = [re.sub(r"[-_.]+", "-", pin.split("==")[0]).lower() for pin in PINS]
    assert sorted(names) == sorted(set(names))


def test_the_oldest_python_can_install_them() -> None:
    """A patch release counts: a package may ask for 3.11.5 where a machine has 3.11.2."""
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    [oldest] = re.fullmatch(r">=(\d+\.\d+)", project["requires-python"]).groups()  # type: ignore[union-attr]
    looked, wrong = 0, []
    for name, version in (pin.split("==") for pin in PINS):
        try:
            held = metadata.distribution(name)
        except metadata.PackageNotFoundError:
            continue  # of another platform
        if held.version == version:
            looked += 1
            asks = held.metadata.get("Requires-Python")
            if asks and not SpecifierSet(asks).contains(f"{oldest}.0"):
                wrong.append(f"{name} {version} needs Python {asks}")
    assert looked > 30 and not wrong, wrong
