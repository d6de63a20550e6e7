"""The page as a reader meets it: no console line, no request, no sliding sideways on a phone; it prints."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from downstream.probe.run import probe
from downstream.report import build_report, embed_scenes
from specfm.rasters.class_map import ClassMapWriter, Legend
from tests.downstream.report.browser import find_browser, print_pdf, show
from tests.downstream.report.test_report import QUICK, conditions, write_finetune_run, write_metrics
from tests.downstream.toy_scenes import NAMES, ToyEncoder, field, plots

pytest.importorskip("matplotlib")
pytest.importorskip("jinja2")
pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(find_browser() is None, reason="no Chromium; make test-all installs one where it may"),
]
PHONE, DESK = 390, 1100  # CSS pixels
SECTIONS = (
    "Leaderboard", "Accuracy", "Robustness", "Maps", "Embedding", "Spectra of classes", "Scenes", "Training",
    "Left out", "Digests and versions",
)  # fmt: skip


@pytest.fixture(scope="module")
def page(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A report with every section, and with names that do not break."""
    folder = tmp_path_factory.mktemp("report")
    encoder = ToyEncoder()
    rows = probe(encoder, plots(), QUICK, data="toy plots", make_random=lambda i: ToyEncoder(100 + i)).rows
    write_metrics(folder / "pretrain")
    run = write_finetune_run(folder / ("a_run_whose_name_is_one_long_word_" * 3), rows)
    scene = replace(field(), name="scene_" * 12)
    assert scene.labels_HW is not None
    with ClassMapWriter(folder / "m.npy", (60, 72), Legend.of(NAMES), facts={"scenes": [scene.name]}) as writer:
        writer.write(scene.labels_HW + 1)
    done = build_report(
        folder / "report.html",
        [folder / "pretrain", run, folder / "m.npy"],
        rows=[*rows, *conditions(rows)],
        scenes=[scene, *plots(3)],
        embeddings={"toy": embed_scenes(encoder, plots(), 9, max_per_class=10)},
        title="Every_section_of_a_report_under_a_title_that_is_a_single_word",
    )
    return done.path


@pytest.mark.parametrize("width", [PHONE, DESK])
def test_whole_quiet_and_no_wider_than_the_screen(page: Path, width: int, tmp_path: Path) -> None:
    picture = tmp_path / "shot.png"
    found = show(page, width, tmp_path / "browser", picture)
    assert found.headings == list(SECTIONS)
    assert found.images > 10 and found.broken == 0
    assert found.console == [] and found.requests == []
    assert found.client == width and found.scroll == width and found.wide == []

    from matplotlib.image import imread

    shot = imread(picture)
    assert shot.shape[0] >= found.height > 2000
    assert np.ptp(shot[..., :3]) > 0.5  # not an empty sheet


def test_it_prints(page: Path, tmp_path: Path) -> None:
    print_pdf(page, tmp_path / "page.pdf", tmp_path)
    data = (tmp_path / "page.pdf").read_bytes()
    assert data.startswith(b"%PDF") and 2 <= data.count(b"/Type /Page\n") <= 40


def test_the_check_sees_what_it_looks_for(page: Path, tmp_path: Path) -> None:
    spoilt = tmp_path / "spoilt.html"
    html = page.read_text(encoding="utf-8")
    free = html.replace('http-equiv="Content-Security-Policy"', 'name="none"')
    assert free != html
    bad = '<div style="width: 700px">wide</div><img src="beside.png"><img src="http://example.org/far.png">'
    spoilt.write_text(free.replace("</body>", bad + "<script>nothing()</script></body>"), encoding="utf-8")
    found = show(spoilt, PHONE, tmp_path / "a")
    assert found.scroll > PHONE and found.wide and found.broken == 2
    assert any("beside.png" in r for r in found.requests) and "example.org/far.png" in found.requests
    assert any("nothing is not defined" in line for line in found.console)
    # the page's own policy stops the requests before they are made
    spoilt.write_text(html.replace("</body>", bad + "</body>"), encoding="utf-8")
    found = show(spoilt, PHONE, tmp_path / "b")
    assert found.requests == [] and found.console
