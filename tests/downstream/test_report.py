"""The page is whole, self-contained and honest: every row, mark and digest is on it, and nothing is fetched."""

from __future__ import annotations

import json
import re
from dataclasses import replace
from html.parser import HTMLParser
from pathlib import Path

import numpy as np
import pytest
from toy_scenes import NAMES, ToyEncoder, field, plots

from downstream.probe import ProbeOptions, probe
from downstream.report import Embedding, build_report
from downstream.report.figures import pca_plane
from downstream.results import append_rows
from specfm.errors import SpecfmError, UsageError

pytest.importorskip("matplotlib")
pytest.importorskip("jinja2")
QUICK = ProbeOptions(seeds=2, init_seeds=1, window=9, max_per_class=15, draws=100, grid=(1e-2, 1.0))
VOID = {"meta", "link", "br", "img", "hr", "input"}


class Checker(HTMLParser):
    """Collects references and text; fails on tags that are opened and not closed."""

    def __init__(self) -> None:
        super().__init__()
        self.open: list[str] = []
        self.sources: list[str] = []
        self.text = ""

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.sources += [v or "" for k, v in attrs if k in ("src", "href")]
        if tag not in VOID:
            self.open.append(tag)

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        self.text += data


def checked(path: Path) -> Checker:
    page = Checker()
    page.feed(path.read_text(encoding="utf-8"))
    assert page.open == []
    return page


@pytest.fixture(scope="module")
def rows() -> list[dict]:
    return probe(ToyEncoder(), plots(), QUICK, data="toy plots", make_random=lambda i: ToyEncoder(100 + i))


def test_everything_on_one_page_and_nothing_outside(rows: list[dict], tmp_path: Path) -> None:
    run = tmp_path / "my-run"
    run.mkdir()
    lines = [{"step": s, "loss": 5 - s / 10, "lr": 1e-3, "knn": 0.5 if s % 5 == 0 else None} for s in range(20)]
    (run / "metrics.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    x = np.random.default_rng(0).normal(size=(50, 8))
    embeddings = {"toy <net>": Embedding(x, {"class": ["a", "b"] * 25, "domain": ["x"] * 50})}
    out = build_report(
        tmp_path / "r.html", run=run, results=rows, scenes=[field(), plots(1)[0]], embeddings=embeddings, title="A & B"
    )
    page = checked(out)
    # intervals, confusion of the four linear probes, curves, scatter, colours and labels of two scenes
    assert len(page.sources) == 1 + 4 + 1 + 1 + 4 and all(s.startswith("data:image/") for s in page.sources)
    # namespaces inside the base64 figures aside, no address occurs
    assert not re.search(r"https?://|url\(|@import|<script", out.read_text())
    for row in rows:
        assert row["method"] in page.text and row["digests"]["splits"] in page.text
    for name in (*NAMES, "plot_0", "my-run", "A & B", "toy <net>", "0 %", "450-900 nm"):
        assert name in page.text


def test_leaky_rows_are_marked(tmp_path: Path) -> None:
    options = replace(QUICK, split="random_pixels", max_per_class=40, init_seeds=0, baselines=False)
    rows = probe(ToyEncoder(), [field()], options)
    text = checked(build_report(tmp_path / "r.html", results=rows)).text
    assert "leaky split" in text and "100 %, 1 px LEAKY" in text and "train and test windows overlap" in text


def test_repeated_rows_are_shown_once_and_tables_kept_apart(rows: list[dict], tmp_path: Path) -> None:
    path = tmp_path / "results.jsonl"
    append_rows(path, rows + rows + [{**rows[0], "shots": 5}])
    text = checked(build_report(tmp_path / "r.html", results=path)).text
    assert text.count("toy plots: split by group") == 2 and "5 shots a class" in text
    assert text.count("majority class") == 1


def test_refusals(rows: list[dict], tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="nothing to report"):
        build_report(tmp_path / "r.html")
    with pytest.raises(SpecfmError, match="no metrics.jsonl"):
        build_report(tmp_path / "r.html", run=tmp_path)
    (tmp_path / "r.html").write_text("mine")
    with pytest.raises(UsageError, match="exists"):
        build_report(tmp_path / "r.html", results=rows)
    assert (tmp_path / "r.html").read_text() == "mine"
    build_report(tmp_path / "r.html", results=rows, overwrite=True)


def test_pca_plane_finds_the_direction_of_variance() -> None:
    rng = np.random.default_rng(0)
    t = rng.normal(size=200)
    x = np.stack([t, t, -t], 1) + 0.01 * rng.normal(size=(200, 3))
    score, share = pca_plane(x)
    assert share[0] > 0.99 and abs(np.corrcoef(score[:, 0], t)[0, 1]) > 0.999
    assert pca_plane(x[:, :1])[0].shape == (200, 2)
