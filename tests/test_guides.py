"""The guides are true: their commands exist and, run from top to bottom, print what is shown; the site is whole.

A guide is run in an empty folder. A block of ``yaml`` or ``csv`` with a title is a file; blocks of ``bash`` and
``python`` are run; a block of ``text`` after one is (part of) what it printed, compared without its numbers. A line
``<!-- not run: reason -->`` before a block leaves it out, and ``<!-- fails -->`` says that it ends with an error.
"""

from __future__ import annotations

import os
import re
import subprocess
import sys
from collections.abc import Iterator
from html.parser import HTMLParser
from pathlib import Path
from urllib.parse import unquote, urlsplit

import pytest

from downstream.compress.config import CompressionConfig
from specfm import cli
from specfm.cards.card import Card
from specfm.config import build_config
from specfm.documents import parse_yaml

ROOT = Path(__file__).resolve().parents[1]
GUIDES = sorted((ROOT / "notebooks").glob("*.md"))
BLOCK = re.compile(
    r"^(?:<!-- (?P<said>not run: [^\n]+|fails) -->\n)?"
    r"```(?P<kind>\w+)(?: title=\"(?P<title>[^\"]+)\")?\n(?P<text>.*?)^```$",
    flags=re.MULTILINE | re.DOTALL,
)


def blocks(path: Path) -> Iterator[tuple[str, str, str, str]]:
    """Kind, title, text of every block, and what is said before it."""
    for found in BLOCK.finditer(path.read_text(encoding="utf-8")):
        yield found["kind"], found["title"] or "", found["text"], found["said"] or ""


def told(line: str) -> str:
    """A line without its numbers, and with single spaces."""
    return " ".join(re.sub(r"[-+±]?[\d.,]*\d", "0", line).split())


def environment(folder: Path) -> dict[str, str]:
    """What commands of a guide find: ``specfm`` of this checkout, a home of their own, tables of one width."""
    binaries = folder / "bin"
    binaries.mkdir()
    command = binaries / "specfm"
    command.write_text(f'#!/bin/sh\nexec "{sys.executable}" -P -m specfm "$@"\n', encoding="utf-8")
    command.chmod(0o755)
    (binaries / "python").symlink_to(sys.executable)
    return {
        **os.environ,
        "PATH": f"{binaries}{os.pathsep}{os.environ['PATH']}",
        "PYTHONPATH": str(ROOT),
        "XDG_CACHE_HOME": str(folder / "cache"),
        "COLUMNS": "100",
    }


def run_guide(path: Path, folder: Path) -> list[str]:
    """Run every block; what differs from what the guide shows."""
    work = folder / "work"
    work.mkdir()
    variables, printed, wrong = environment(folder), "", []
    for kind, title, text, said in blocks(path):
        if said.startswith("not run"):
            continue
        if title:
            (work / title).parent.mkdir(parents=True, exist_ok=True)
            (work / title).write_text(text, encoding="utf-8")
        elif kind in ("bash", "python"):
            call = ["bash", "-euo", "pipefail", "-c", text] if kind == "bash" else [sys.executable, "-P", "-c", text]
            done = subprocess.run(
                call, cwd=work, env=variables, timeout=600, text=True, stdout=subprocess.PIPE, stderr=subprocess.STDOUT
            )
            printed = done.stdout
            if (done.returncode != 0) != (said == "fails"):
                wrong.append(f"{text.strip()} ends with {done.returncode}: {printed[-2000:]}")
        elif kind == "text":
            lines = {told(line) for line in printed.splitlines()}
            shown = [line for line in text.splitlines() if line.strip() not in ("", "...")]
            wrong += [f"shown, but not printed: {line}" for line in shown if told(line) not in lines]
    return wrong


@pytest.mark.slow
@pytest.mark.parametrize("path", GUIDES, ids=lambda path: path.stem)
def test_guides_do_what_they_say(path: Path, tmp_path: Path) -> None:
    assert not run_guide(path, tmp_path)


@pytest.mark.parametrize("path", GUIDES, ids=lambda path: path.stem)
def test_commands_of_guides_exist(path: Path) -> None:
    """Also of those blocks that are not run; options are looked up by tests/test_examples.py."""
    for kind, _, text, _ in blocks(path):
        if kind == "bash":
            for name in re.findall(r"^(?:exec |srun )?specfm ([a-z-]+)", text, flags=re.MULTILINE):
                assert name in cli.COMMANDS, f"{path.name}: specfm {name}"


def test_cards_and_benchmarks_in_guides_are_such() -> None:
    seen = 0
    for path in GUIDES:
        for kind, _, text, _ in blocks(path):
            if kind == "yaml" and text.startswith("name:"):
                model = CompressionConfig if "pipelines:" in text else Card
                build_config(parse_yaml(text, path), model, path.name)
                seen += 1
    assert seen > 5


class Links(HTMLParser):
    """What a page loads, where it leads, and the anchors it has."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.loads: set[str] = set()
        self.leads: set[str] = set()
        self.anchors: set[str] = set()
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        values = {name: value for name, value in attrs if value}
        self.anchors |= {values[name] for name in ("id", "name") if name in values}
        if tag in ("script", "img", "iframe", "source") and "src" in values:
            self.loads.add(values["src"])
        if "href" in values:
            (self.leads if tag == "a" else self.loads).add(values["href"])


@pytest.mark.slow
def test_the_site_is_built_strictly_and_every_link_in_it_resolves(tmp_path: Path) -> None:
    pytest.importorskip("mkdocs", reason="the extra `site` is not installed")
    site = tmp_path / "site"
    call = [sys.executable, "-m", "mkdocs", "build", "--strict", "--site-dir", str(site)]  # --quiet would hide warnings
    variables = {**os.environ, "NO_MKDOCS_2_WARNING": "1", "PYTHONPATH": str(ROOT)}
    done = subprocess.run(call, cwd=ROOT, env=variables, text=True, capture_output=True)
    said = [line for line in done.stderr.splitlines() if line.strip() and not line.startswith("INFO")]
    assert done.returncode == 0 and not said, done.stderr[-3000:]
    pages = {path: Links(path.read_text(encoding="utf-8")) for path in sorted(site.rglob("*.html"))}
    assert len(pages) > 20
    wrong = []
    for path, links in pages.items():
        wrong += [f"{path.name} loads {each}" for each in links.loads if urlsplit(each).netloc]
        for each in (*links.leads, *links.loads):
            parts = urlsplit(each)
            if parts.scheme or parts.netloc:
                continue
            # the page of errors is served from anywhere, so its links begin at the root
            near = site / parts.path.lstrip("/") if parts.path.startswith("/") else path.parent / unquote(parts.path)
            target = (near if parts.path else path).resolve()
            target = target / "index.html" if target.is_dir() else target
            if not target.is_file():
                wrong.append(f"{path.name} leads to {each}")
            elif parts.fragment and target in pages and unquote(parts.fragment) not in pages[target].anchors:
                wrong.append(f"{path.name} leads to {each}, which has no such place")
    for style in site.rglob("*.css"):
        wrong += re.findall(r"(?:@import|url\()\s*[\"']?https?://[^)\s]+", style.read_text(encoding="utf-8"))
    assert not wrong, "; ".join(sorted(wrong)[:20])
