"""What the documents promise: README's commands, files and tree exist; configurations, examples and notebooks run."""

from __future__ import annotations

import doctest
import re
import shlex
from importlib import import_module
from pathlib import Path
from typing import Any

import pytest

from specfm import cli

ROOT = Path(__file__).resolve().parents[1]
GUIDES = sorted(ROOT.glob("notebooks/*.md"))
DOCUMENTS = sorted([*ROOT.glob("*.md"), *ROOT.glob("configs/**/*.yaml"), *ROOT.glob("notebooks/*.ipynb"), *GUIDES])


def command_lines(path: Path) -> list[str]:
    """Lines that begin with ``specfm <command>``, as the start of a line, after a ``$`` or ``#``, or in backquotes."""
    text = path.read_text(encoding="utf-8").replace("\\\n", " ")
    found = re.findall(r"(?:^|[`#$!\"])[ ]*(?:\.venv/bin/)?specfm ([a-z]+\b[^`\n#\"]*)", text, flags=re.MULTILINE)
    return [line.strip() for line in found if line.split()[0] in cli.COMMANDS]


LINES = [(path, line) for path in DOCUMENTS for line in command_lines(path)]


def parameters(name: str) -> list[Any]:
    return list(cli.LazyGroup().get_command(None, name).params)


@pytest.mark.parametrize(("path", "line"), LINES, ids=[f"{p.name}: {line}"[:90] for p, line in LINES])
def test_documented_commands_use_options_that_exist(path: Path, line: str) -> None:
    name, *words = shlex.split(line, comments=True)
    known = {flag for parameter in parameters(name) for flag in [*parameter.opts, *parameter.secondary_opts]}
    for word in words:
        if word.startswith("-") and word != "--help":
            assert word.split("=")[0] in known, f"{path.name}: specfm {name} has no option {word}"


def test_the_readme_shows_commands() -> None:
    assert {line.split()[0] for path, line in LINES if path.name == "README.md"} == set(cli.COMMANDS)


def test_make_targets_in_documents_exist() -> None:
    targets = set(re.findall(r"^([a-z-]+):", (ROOT / "Makefile").read_text(encoding="utf-8"), flags=re.MULTILINE))
    for path in [*ROOT.glob("*.md"), *GUIDES]:
        named = set(re.findall(r"(?:^|`)make ([a-z-]+)\b", path.read_text(encoding="utf-8"), flags=re.MULTILINE))
        assert named <= targets, f"{path.name} names {sorted(named - targets)}"


def test_links_and_configs_in_documents_exist() -> None:
    for path in [*ROOT.glob("*.md"), *GUIDES]:
        text = path.read_text(encoding="utf-8")
        linked = [path.parent / name for name in re.findall(r"\]\((?!https?:|#)([^)#]+)[^)]*\)", text)]
        linked += [ROOT / name for name in re.findall(r"\bconfigs/[\w/]+\.yaml", text)]
        # pages that are made of the code when the site is built; tests/test_guides.py follows links to them
        made = ROOT / "notebooks" / "reference"
        missing = [str(name) for name in linked if not name.exists() and made not in name.parents]
        assert not missing, f"{path.name} points at {missing}"


def test_the_readme_tree_is_the_folder_tree() -> None:
    """Every folder and file of the tree is there, and every room and file of the ground floor is in the tree."""
    text = (ROOT / "README.md").read_text(encoding="utf-8")
    tree = text.split("## Where things are")[1].split("```")[1]
    plumbing = {"__init__.py", "__main__.py", "__pycache__/", "errors.py"}
    blocks = re.split(r"^(\w+/)", tree, flags=re.MULTILINE)[1:]
    for top, block in zip(blocks[::2], blocks[1::2], strict=True):
        assert (ROOT / top).is_dir()
        names = set()
        for line in block.splitlines()[1:]:
            head = re.match(r"  ((?:\w+(?:\.py|/) ?)+)(?: |$)", line)
            names |= set(head[1].split()) if head else set()
        if top not in ("specfm/", "pretrain/", "downstream/"):
            continue
        there = {
            p.name + ("/" if p.is_dir() else "") for p in (ROOT / top).iterdir() if p.suffix == ".py" or p.is_dir()
        }
        assert names == there - plumbing, top


def pretraining_configs() -> list[Path]:
    return [*sorted((ROOT / "configs" / "pretrain").glob("*.yaml")), ROOT / "configs" / "demo.yaml"]


@pytest.mark.parametrize("path", pretraining_configs(), ids=lambda path: path.name)
def test_shipped_configurations_are_valid_and_say_what_they_cost(path: Path) -> None:
    from pretrain.config import PretrainConfig
    from specfm.config import load_config

    load_config(path, PretrainConfig, [])
    first = path.read_text(encoding="utf-8").splitlines()[:12]
    comments = "\n".join(line for line in first if line.startswith("#"))
    assert "specfm " in comments, f"{path.name} does not begin with its command"
    assert "Cost" in comments, f"{path.name} does not say what it costs"


def modules_with_examples() -> list[str]:
    files = [path for package in ("specfm", "pretrain", "downstream") for path in (ROOT / package).rglob("*.py")]
    with_examples = [path for path in files if ">>> " in path.read_text(encoding="utf-8")]
    return sorted(
        ".".join(path.relative_to(ROOT).with_suffix("").parts).removesuffix(".__init__") for path in with_examples
    )


@pytest.mark.parametrize("name", modules_with_examples())
def test_examples_in_docstrings_run(name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    flags = doctest.NORMALIZE_WHITESPACE | doctest.ELLIPSIS
    assert doctest.testmod(import_module(name), optionflags=flags).failed == 0


@pytest.mark.slow
@pytest.mark.parametrize("own", [False, True], ids=["simulated", "own file"])
@pytest.mark.parametrize("path", sorted((ROOT / "notebooks").glob("*.ipynb")), ids=lambda path: path.name)
def test_notebooks_run_from_top_to_bottom_and_end_in_a_map(
    path: Path, own: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    nbformat = pytest.importorskip("nbformat")
    client = pytest.importorskip("nbclient")
    monkeypatch.setenv("PYTHONPATH", str(ROOT))  # the kernel is a process of its own
    monkeypatch.delenv("SPECFM_SCENE", raising=False)
    if own:
        from specfm.simulate import write_simulation

        write_simulation(tmp_path / "mine", ["sentinel2_msi"], seed=1, scenes=1, size=(40, 50))
        monkeypatch.setenv("SPECFM_SCENE", str(tmp_path / "mine" / "sentinel2_msi_00.hdr"))
    notebook = nbformat.read(path, as_version=4)
    client.NotebookClient(notebook, timeout=600, resources={"metadata": {"path": str(tmp_path)}}).execute()
    last = [cell for cell in notebook.cells if cell.cell_type == "code"][-1]
    assert any("image/png" in output.get("data", {}) for output in last.outputs)
