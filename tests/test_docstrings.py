"""Docstrings can be read by tools: one name an entry, the names of the signature, in its order."""

from __future__ import annotations

import ast
import re
from functools import cache
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
FILES = [path for name in ("specfm", "downstream", "pretrain") for path in sorted((ROOT / name).rglob("*.py"))]
Described = ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef
ENTRY = {
    "Args": r"\*{0,2}(\w+)(?: \([^)]*\))?: \S",
    "Attributes": r"(\w+)(?: \([^)]*\))?: \S",
    "Raises": r"([A-Z]\w+): \S",
}
# a second entry that hides in the text of the first: "... of the scene. size: its side"
HIDDEN = re.compile(r"[.;] \*{0,2}(\w+): ")


@cache
def described() -> list[tuple[str, Described, str]]:
    return [
        (f"{path.relative_to(ROOT)}:{node.lineno} {node.name}", node, text)
        for path in FILES
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8")))
        if isinstance(node, Described) and (text := ast.get_docstring(node))
    ]


def entries(text: str, section: str) -> list[str]:
    """Entries of a section, each on one line."""
    found = re.search(rf"^{section}:\n((?:[ ]{{4,}}\S.*\n?)+)", text, flags=re.MULTILINE)
    return [] if found is None else re.sub(r"\n {5,}", " ", found[1]).rstrip().split("\n")


def parameters(node: Described) -> list[str]:
    """What a call takes: of a class its ``__init__``, or the fields of a data class."""
    if isinstance(node, ast.ClassDef):
        made = [each for each in node.body if isinstance(each, ast.FunctionDef) and each.name == "__init__"]
        if not made:
            fields = [each.target for each in node.body if isinstance(each, ast.AnnAssign)]
            return [each.id for each in fields if isinstance(each, ast.Name)]
        return parameters(made[0])
    given = node.args
    one_by_one = [*given.posonlyargs, *given.args, given.vararg, *given.kwonlyargs, given.kwarg]
    return [each.arg for each in one_by_one if each is not None and each.arg not in ("self", "cls")]


@pytest.mark.parametrize("section", ENTRY)
def test_an_entry_has_one_name(section: str) -> None:
    wrong = []
    for where, node, text in described():
        known = {*parameters(node), "library", "card"}
        for entry in entries(text, section):
            hidden = [name for name in HIDDEN.findall(entry) if name in known or name.endswith("Error")]
            if not re.match(" {4}" + ENTRY[section], entry) or hidden:
                wrong.append(f"{where}: {entry.strip()[:90]}")
    assert not wrong, "write one name a line, 'name: text': " + "; ".join(wrong)


def test_args_are_the_parameters_in_their_order() -> None:
    wrong, seen = [], 0
    for where, node, text in described():
        if named := [re.match(r" {4}\*{0,2}(\w*)", each)[1] for each in entries(text, "Args")]:  # type: ignore[index]
            seen += 1
            if named != parameters(node):
                wrong.append(f"{where} describes {named}, takes {parameters(node)}")
    assert seen > 200 and not wrong, "; ".join(wrong)


def test_every_key_of_cards_and_configurations_is_described(monkeypatch: pytest.MonkeyPatch) -> None:
    """The site's pages of keys are made of these words."""
    from downstream.benchmark.suite import SuiteConfig
    from downstream.tasks.config import FinetuneConfig
    from pretrain.config import PretrainConfig
    from specfm.cards.card import Card

    monkeypatch.syspath_prepend(str(ROOT / "notebooks" / "pages"))
    from schema_pages import page

    for model in (Card, PretrainConfig, FinetuneConfig, SuiteConfig):
        rows = [row for row in page("", "", model, "The file").splitlines() if row.startswith("| `")]
        silent = [row for row in rows if not row.removesuffix("|").rsplit(" | ", 1)[-1].strip()]
        assert len(rows) > 20 and not silent, f"{model.__name__}: {silent}"


def test_no_field_is_described_that_does_not_exist() -> None:
    """A field of a parent may be described again."""
    wrong = []
    for where, node, text in described():
        if isinstance(node, ast.ClassDef) and "Strict" in {
            each.id for each in node.bases if isinstance(each, ast.Name)
        }:
            named = {re.match(r" {4}(\w*)", each)[1] for each in entries(text, "Attributes")}  # type: ignore[index]
            wrong += [f"{where} has no {name}" for name in sorted(named - set(parameters(node)))]
    assert not wrong, "; ".join(wrong)
