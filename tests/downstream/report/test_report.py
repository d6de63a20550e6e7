"""The page is whole, self-contained and honest: every row, mark and digest is on it, and nothing is fetched."""

from __future__ import annotations

import json
import re
from dataclasses import replace
from html.parser import HTMLParser
from pathlib import Path

import numpy as np
import pytest

from downstream.benchmark.leaderboard import Board, Difference, Section
from downstream.probe.options import ProbeOptions
from downstream.probe.run import probe
from downstream.report import Embedding, build_report, embed_scenes
from downstream.report.embedding import pca_plane
from downstream.report.scenes import _accumulate, class_spectra
from downstream.report.tables import accuracy, leaderboard
from downstream.results.files import append_rows
from specfm.errors import SpecfmError, UsageError
from specfm.rasters.class_map import ClassMapWriter, Legend
from tests.downstream.toy_scenes import NAMES, ToyEncoder, field, plots

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
        self.links: list[str] = []
        self.ids: list[str] = []
        self.text = ""

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.sources += [v or "" for k, v in attrs if k == "src"]
        self.links += [v or "" for k, v in attrs if k == "href"]
        self.ids += [v or "" for k, v in attrs if k == "id"]
        if tag not in VOID:
            self.open.append(tag)

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        self.text += data


def checked(path: Path) -> Checker:
    """The page, of which no address but pictures inside it and places on it is left."""
    page = Checker()
    page.feed(path.read_text(encoding="utf-8"))
    assert page.open == []
    assert all(s.startswith("data:image/") for s in page.sources)
    assert all(s == "data:," or s[1:] in page.ids for s in page.links)
    assert not re.search(r"https?://|url\(|@import|<script", path.read_text(encoding="utf-8"))
    return page


@pytest.fixture(scope="module")
def rows() -> list[dict]:
    return probe(ToyEncoder(), plots(), QUICK, data="toy plots", make_random=lambda i: ToyEncoder(100 + i)).rows


def write_metrics(folder: Path, name: str = "loss") -> None:
    folder.mkdir(parents=True)
    lines = [{"step": s, name: 5 - s / 10, "lr": 1e-3, "knn": 0.5 if s % 5 == 0 else None} for s in range(20)]
    (folder / "metrics.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))


def write_finetune_run(folder: Path, rows: list[dict]) -> Path:
    """A folder such as `specfm finetune` leaves: trainings, rows with a task, a picture."""
    from specfm.rasters.quicklook import png_bytes

    for name in ("init-full-0", "init-full-1", "random-full-0"):
        write_metrics(folder / "runs" / name)
    (folder / "config.yaml").write_text("task: segmentation\ndata: {card: some_card}\n")
    (folder / "map.png").write_bytes(png_bytes(np.full((8, 8, 4), 200, np.uint8)))
    append_rows(folder / "results.jsonl", [{**row, "task": "segmentation"} for row in rows[:3]])
    return folder


def conditions(rows: list[dict]) -> list[dict]:
    """Rows as of one probe under three conditions."""
    told = (("as measured", 12), ("every 4th band", 3), ("wavelengths shuffled", 12))
    return [
        {**r, "condition": c, "bands": [n], "digests": {**r["digests"], "data": f"digest of {c}"}}
        for c, n in told
        for r in rows[:2]
    ]


def test_everything_on_one_page_and_nothing_outside(rows: list[dict], tmp_path: Path) -> None:
    write_metrics(tmp_path / "my-run")
    x = np.random.default_rng(0).normal(size=(50, 8))
    embeddings = {"toy <net>": Embedding(x, {"class": ["a", "b"] * 25, "domain": ["x"] * 50})}
    scenes = [field(), plots(1)[0]]
    out = tmp_path / "r.html"
    done = build_report(out, [tmp_path / "my-run"], rows=rows, scenes=scenes, embeddings=embeddings, title="A & B")
    page = checked(out)
    linear = sum(row["protocol"] == "linear" for row in rows)
    assert linear == 10
    # intervals, confusion of each linear probe, curves, scatter, spectra of one sensor, two scenes with labels
    assert len(page.sources) == 1 + linear + 1 + 1 + 1 + 4
    for row in rows:
        assert row["method"] in page.text and row["digests"]["splits"] in page.text
    for name in (*NAMES, "plot_0", "my-run", "A & B", "toy <net>", "0 %", "450-900 nm", "toy: 2 scenes"):
        assert name in page.text
    assert set(done.sections) == {"groups", "curves", "scenes", "spectra", "scatters", "facts"}
    assert {what for what, _ in done.left_out} >= {"leaderboard", "robustness", "maps"}
    assert all(why in page.text for _, why in done.left_out)


def test_recall_per_class_shows_the_encoder_whatever_protocols_ran(rows: list[dict]) -> None:
    own = [row for row in rows if row["kind"] == "encoder"]
    only_knn = [row for row in rows if row not in own] + [{**own[0], "protocol": "knn"}]
    (group,) = accuracy(only_knn)
    assert f"{own[0]['method']} knn" in group["class_columns"]
    assert any(name.endswith("linear") for name in group["class_columns"])
    (group,) = accuracy(rows)
    assert f"{own[0]['method']} linear" in group["class_columns"]
    assert not any(name.endswith("knn") for name in group["class_columns"])


def test_text_of_others_is_escaped(rows: list[dict], tmp_path: Path) -> None:
    evil = "<script>alert(1)</script>"
    nasty = [{**row, "data": evil, "alarms": [evil], "hardware": evil} for row in rows]
    nasty += [{**row, "condition": evil} for row in nasty]
    scene = replace(field(), name=evil, label_names=(evil, "b", "c"))
    build_report(tmp_path / "r.html", rows=nasty, scenes=[scene], title=evil, notes=[evil])
    assert evil in checked(tmp_path / "r.html").text  # and the check finds no tag of that name


def test_a_finetune_run_shows_its_own_metrics_map_and_trainings(rows: list[dict], tmp_path: Path) -> None:
    run = write_finetune_run(tmp_path / "ft", rows)
    # named twice, by folder and by file: counted once
    done = build_report(tmp_path / "r.html", [run, run / "results.jsonl", run])
    page = checked(tmp_path / "r.html")
    assert done.rows == 3 and {"pictures", "curves", "groups"} <= set(done.sections)
    assert "mIoU" in page.text and "3 trainings" in page.text and "truth, map and mistakes" in page.text
    assert "pass --data some_card" in page.text


def test_unfinished_runs_are_shown_with_what_they_lack(tmp_path: Path) -> None:
    write_metrics(tmp_path / "ft" / "runs" / "init-full-0")
    (tmp_path / "ft" / "config.yaml").write_text("task: change\n")
    done = build_report(tmp_path / "r.html", [tmp_path / "ft"])
    assert {"results of ft", "map of ft"} <= {what for what, _ in done.left_out}
    (tmp_path / "new").mkdir()
    (tmp_path / "new" / "config.yaml").write_text("steps: [")
    done = build_report(tmp_path / "s.html", [tmp_path / "new"])
    assert ("training curves of new", "it has logged no step yet") in done.left_out


def test_conditions_make_a_robustness_section_and_stay_out_of_the_tables(rows: list[dict], tmp_path: Path) -> None:
    done = build_report(tmp_path / "r.html", rows=[*conditions(rows), *conditions(rows)])
    text = checked(tmp_path / "r.html").text
    assert set(done.sections) == {"robustness", "facts"}
    assert text.count("Robustness") == 2  # link and heading
    for name in ("as measured", "every 4th band", "wavelengths shuffled", "digest of every 4th band"):
        assert name in text


def test_a_folder_of_results_becomes_a_leaderboard(rows: list[dict], tmp_path: Path) -> None:
    worse = {**rows[0], "oa": {**rows[0]["oa"], "mean": 0.0}}
    append_rows(tmp_path / "suite" / "a" / "results.jsonl", rows)
    append_rows(tmp_path / "suite" / "b" / "results.jsonl", [{**r, "data": "other"} for r in [worse, *rows[1:]]])
    done = build_report(tmp_path / "r.html", [tmp_path / "suite"])
    text = checked(tmp_path / "r.html").text
    assert "leaderboard" in done.sections and done.rows == 2 * len(rows)
    assert "toy plots by group: OA" in text and "other by group: OA" in text


@pytest.mark.slow
def test_a_benchmark_brings_its_own_leaderboard(rows: list[dict], tmp_path: Path) -> None:
    own = [{**row, "data": data, "suite": "mine"} for data in ("one", "two") for row in rows]
    append_rows(tmp_path / "bench" / "results.jsonl", own)
    sections = (
        Section("AA of every dataset", ("method", "one"), (("net", ".5 [.4-.6]"),), ("overview <b>",)),
        Section("one: split by group", ("method",), (("a table of the rows",),)),
        Section("Which differences are more than chance", ("method", "verdict"), (("net", "better"),)),
    )
    difference = Difference("one", None, "linear", "net", "twin", 0.1, 0.05, 0.2, 9, False)
    board = tmp_path / "bench" / "leaderboard.json"
    board.write_text(json.dumps(Board("mine", "aa", sections, (difference,)).to_dict()))
    done = build_report(tmp_path / "r.html", [tmp_path / "bench"])
    text = checked(tmp_path / "r.html").text
    assert "boards" in done.sections and "leaderboard" not in done.sections
    for shown in ("mine: AA of every dataset", "overview <b>", "more than chance", "better"):
        assert shown in text
    assert "a table of the rows" not in text
    board.write_text("{}")
    spoilt = build_report(tmp_path / "s.html", [tmp_path / "bench"])
    assert "leaderboard of bench" in {what for what, _ in spoilt.left_out}


@pytest.mark.parametrize("name", ["m.npy", "m.hdr", "m.tif"])
def test_maps_stand_beside_the_truth(name: str, tmp_path: Path) -> None:
    if name.endswith("tif"):
        pytest.importorskip("rasterio")
    scene = field(20, 24)
    facts = {"scenes": [scene.name], "task": "segmentation", "model": "0123abcd"}
    assert scene.labels_HW is not None
    with ClassMapWriter(tmp_path / name, (20, 24), Legend.of(NAMES[:2]), facts=facts) as writer:
        writer.write(scene.labels_HW.clip(-1, 1) + 1)
    done = build_report(tmp_path / "r.html", [tmp_path / name], scenes=[scene])
    page = checked(tmp_path / "r.html")
    assert "0123abcd" in page.text and "left white: soil" in page.text
    assert len(page.sources) == 2 + 2 + 1 and not any("truth" in what for what, _ in done.left_out)
    alone = build_report(tmp_path / "s.html", [tmp_path / name])
    assert any("pass its card" in why for _, why in alone.left_out)
    (tmp_path / "m.png").unlink()
    bare = build_report(tmp_path / "t.html", [tmp_path / name])
    assert any("--no-preview" in why for _, why in bare.left_out)


def test_groups_and_similarity_are_shown_too(tmp_path: Path) -> None:
    scene = field(20, 24)
    assert scene.labels_HW is not None
    legend = Legend.of(["cluster 1", "cluster 2"])
    with ClassMapWriter(
        tmp_path / "c.npy", (20, 24), legend, facts={"scenes": [scene.name], "method": "kmeans"}
    ) as writer:
        writer.write(scene.labels_HW.clip(-1, 1) + 1)
    (tmp_path / "s.npy").write_bytes(b"")
    (tmp_path / "s.json").write_text(json.dumps({"scenes": [scene.name], "like": [[3, 4]]}))
    (tmp_path / "s.png").write_bytes((tmp_path / "c.png").read_bytes())
    build_report(tmp_path / "r.html", [tmp_path / "c.npy", tmp_path / "s.npy"], scenes=[scene])
    page = checked(tmp_path / "r.html")
    assert "groups have no names" in page.text and "similarity to the pixels [[3, 4]]" in page.text


def test_leaky_tables_do_not_rank(rows: list[dict], tmp_path: Path) -> None:
    """A method that is best on a leaky table only does not lead."""
    own = [r for r in rows if r["method"] in ("encoder", "majority class")]
    leaky = [{**r, "data": "elsewhere", "split": "random_pixels", "leaky": True} for r in own]
    for row in leaky:
        row["oa"] = {**row["oa"], "mean": 1.0 - row["oa"]["mean"]}
        row["aa"] = {**row["aa"], "mean": 1.0 - row["aa"]["mean"]}
    found = leaderboard(own + leaky)
    assert found is not None and found["lines"][-1]["name"].startswith("majority")


def test_spectra_are_means_and_deviations_of_valid_pixels() -> None:
    scene = field(30, 30, noise=0.1)
    moments: dict = {}
    _accumulate(scene, moments)
    cube, labels = scene.values(), scene.labels_HW
    assert labels is not None and set(moments) == set(NAMES)
    for label, name in enumerate(NAMES):
        mean, deviation = moments[name].mean_and_deviation()
        own = cube[labels == label]  # 30 rows hold every class, 24 of them are read
        assert 0.6 * len(own) < moments[name].pixels <= len(own)
        assert np.allclose(mean, own.mean(0), atol=0.03) and np.allclose(deviation, own.std(0), atol=0.03)
    assert class_spectra([replace(scene, labels_HW=None)]) == []


def test_features_are_coloured_by_class_domain_and_sensor() -> None:
    from specfm.sensors import Sensor

    other = plots(2, sensor=Sensor(plots(1)[0].sensor.bands, quantity="surface_reflectance", name="second"))
    scenes = [replace(s, domain=d) for s, d in zip([*plots(2), *other], "ppqq", strict=True)]
    found = embed_scenes(ToyEncoder(), scenes, 3, max_per_class=4)
    assert list(found.colourings) == ["class", "domain", "sensor"]
    assert {len(names) for names in found.colourings.values()} == {len(found.X_ND)}
    assert set(found.colourings["sensor"]) == {"toy", "second"}
    assert list(embed_scenes(ToyEncoder(), scenes[:2], 3).colourings) == ["class"]
    renamed = [scenes[0], replace(scenes[2], label_names=(*NAMES[1:], "lava"))]  # a card with other classes
    found = embed_scenes(ToyEncoder(), renamed, 3, max_per_class=4)
    assert set(found.colourings["class"]) == {*NAMES, "lava"}


def test_leaky_rows_are_marked(tmp_path: Path) -> None:
    options = replace(QUICK, split="random_pixels", max_per_class=40, init_seeds=0, baselines=False)
    rows = probe(ToyEncoder(), [field()], options).rows
    build_report(tmp_path / "r.html", rows=rows)
    text = checked(tmp_path / "r.html").text
    assert "leaky split" in text and "100 %, 1 px LEAKY" in text and "train and test windows overlap" in text


def test_repeated_rows_are_shown_once_and_tables_kept_apart(rows: list[dict], tmp_path: Path) -> None:
    path = tmp_path / "results.jsonl"
    append_rows(path, rows + rows + [{**rows[0], "shots": 5}])
    build_report(tmp_path / "r.html", [path])
    text = checked(tmp_path / "r.html").text
    assert text.count("toy plots: split by group") == 2 and "5 shots a class" in text
    assert text.count("majority class") == 2  # leaderboard and table


def test_refusals(rows: list[dict], tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="nothing to report"):
        build_report(tmp_path / "r.html")
    with pytest.raises(SpecfmError, match="no metrics.jsonl"):
        build_report(tmp_path / "r.html", [tmp_path])
    with pytest.raises(SpecfmError, match="does not exist"):
        build_report(tmp_path / "r.html", [tmp_path / "none"])
    (tmp_path / "x.txt").write_text("")
    with pytest.raises(SpecfmError, match="no results file"):
        build_report(tmp_path / "r.html", [tmp_path / "x.txt"])
    (tmp_path / "r.html").write_text("mine")
    with pytest.raises(UsageError, match="exists"):
        build_report(tmp_path / "r.html", rows=rows)
    assert (tmp_path / "r.html").read_text() == "mine"
    build_report(tmp_path / "r.html", rows=rows, overwrite=True)


def test_pca_plane_finds_the_direction_of_variance() -> None:
    rng = np.random.default_rng(0)
    t = rng.normal(size=200)
    x = np.stack([t, t, -t], 1) + 0.01 * rng.normal(size=(200, 3))
    score, share = pca_plane(x)
    assert share[0] > 0.99 and abs(np.corrcoef(score[:, 0], t)[0, 1]) > 0.999
    assert pca_plane(x[:, :1])[0].shape == (200, 2)
