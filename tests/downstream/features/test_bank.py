"""Features are found again by what decides them, go on after a kill bit for bit, and never come back altered."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from downstream.features import bank as bank_module
from downstream.features.bank import Bank, default_folder, windows_digest
from downstream.features.extract import extract
from downstream.splits.samples import collect_samples
from specfm.errors import SpecfmError
from specfm.scene import Scene
from tests.downstream.toy_scenes import SENSOR, ToyEncoder, field, plots

FIELD = field(20, 20)


class Counting(ToyEncoder):
    """Counts its calls and can be stopped at one of them."""

    def __init__(self, seed: int = 0, stop_at: int | None = None, wait_s: float = 0.0) -> None:
        super().__init__(seed)
        self.calls, self.stop_at, self.wait_s = 0, stop_at, wait_s

    def __call__(self, x_BHWC: Any, bands: Any, mask_BHW: Any) -> Any:
        self.calls += 1
        time.sleep(self.wait_s)
        if self.calls == self.stop_at:
            raise KeyboardInterrupt
        return super().__call__(x_BHWC, bands, mask_BHW)


def take(folder: Path, encoder: ToyEncoder, scene: Scene = FIELD, window: int = 9, **options: Any) -> np.ndarray:
    return extract(encoder, [scene], window, batch=16, bank=Bank(folder, flush_s=0), **options).X_ND


def entries(folder: Path) -> list[Path]:
    return sorted(p for p in folder.iterdir())


def test_second_time_nothing_is_computed_and_the_values_are_the_same(tmp_path: Path) -> None:
    first, second = Counting(), Counting()
    plain = extract(ToyEncoder(), [FIELD], 9, batch=16).X_ND
    np.testing.assert_array_equal(take(tmp_path, first), plain)
    again = take(tmp_path, second)
    np.testing.assert_array_equal(again, plain)
    assert first.calls > 20 and second.calls == 0
    assert isinstance(again, np.memmap) and not again.flags.writeable
    (entry,) = entries(tmp_path)
    facts = json.loads((entry / "entry.json").read_text())
    assert facts["view"] == {"window": 9, "pooling": "mean+centre", "layers": [], "batch": 16}


def test_every_part_of_the_key_counts(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    cube = FIELD.read()
    cube[3, 3, 3] += 1e-3
    brighter = FIELD.replace(sensor=SENSOR.replace(scale=2.0))
    take(tmp_path, ToyEncoder())
    take(tmp_path, ToyEncoder(1))
    take(tmp_path, ToyEncoder(), FIELD.replace(source=type(FIELD.source)(cube)))
    take(tmp_path, ToyEncoder(), brighter)
    take(tmp_path, ToyEncoder(), window=6)
    take(tmp_path, ToyEncoder(), pooling="mean")
    assert len(entries(tmp_path)) == 6
    take(tmp_path, ToyEncoder(), pooling="mean+centre")  # another name of concat
    assert len(entries(tmp_path)) == 6
    monkeypatch.setattr(bank_module, "code_digest", lambda: "other code")
    take(tmp_path, ToyEncoder())
    assert len(entries(tmp_path)) == 7


def test_pixels_outside_every_window_do_not_count() -> None:
    few = plots(1)[0]
    labels = np.full((12, 12), -1, np.int32)
    labels[1, 1], labels[2, 2] = 0, 1
    scene = few.replace(labels_HW=labels)
    cube = scene.read()
    cube[9] += 1
    other = scene.replace(source=type(scene.source)(cube))
    one, two = (windows_digest([s], collect_samples([s], 3)) for s in (scene, other))
    assert one == two
    assert windows_digest([other], collect_samples([other], 3)) != windows_digest([other], collect_samples([other], 18))


def test_interrupted_extraction_goes_on_where_it_was(tmp_path: Path) -> None:
    plain = extract(ToyEncoder(), [FIELD], 9, batch=16).X_ND
    stopped = Counting(stop_at=11)
    with pytest.raises(KeyboardInterrupt):
        take(tmp_path, stopped)
    (partial,) = entries(tmp_path)
    assert partial.suffix == ".partial"
    rest = Counting()
    np.testing.assert_array_equal(take(tmp_path, rest), plain)
    assert rest.calls == -(-len(plain) // 16) - 10
    assert [p.suffix for p in entries(tmp_path)] == [""]


KILLED = """
import sys
from tests.downstream.features.test_bank import Counting, take
from pathlib import Path
take(Path(sys.argv[1]), Counting(wait_s=0.05))
"""


def test_killed_process_leaves_what_can_be_gone_on_with(tmp_path: Path, repository: Path) -> None:
    env = {**os.environ, "PYTHONPATH": str(repository)}
    process = subprocess.Popen([sys.executable, "-c", KILLED, str(tmp_path)], env=env, cwd=repository)
    deadline = time.monotonic() + 60
    while not list(tmp_path.glob("*.partial/progress.json")):
        assert process.poll() is None and time.monotonic() < deadline
        time.sleep(0.02)
    time.sleep(0.2)
    process.send_signal(signal.SIGKILL)
    process.wait()
    assert list(tmp_path.glob("*.lock"))  # left behind by the killed process; its holder is gone
    rest = Counting()
    plain = extract(ToyEncoder(), [FIELD], 9, batch=16).X_ND
    np.testing.assert_array_equal(take(tmp_path, rest), plain)
    assert 0 < rest.calls < -(-len(plain) // 16)


def test_progress_of_other_data_or_a_torn_file_is_not_gone_on_with(tmp_path: Path) -> None:
    with pytest.raises(KeyboardInterrupt):
        take(tmp_path, Counting(stop_at=11))
    (partial,) = entries(tmp_path)
    progress = json.loads((partial / "progress.json").read_text())
    (partial / "progress.json").write_text(json.dumps({**progress, "data": "0" * 16}))
    rest = Counting()
    plain = extract(ToyEncoder(), [FIELD], 9, batch=16).X_ND
    np.testing.assert_array_equal(take(tmp_path, rest), plain)
    assert rest.calls == -(-len(plain) // 16)


def test_altered_entry_is_made_again(tmp_path: Path) -> None:
    plain = np.array(take(tmp_path, ToyEncoder()))
    path = entries(tmp_path)[0] / "features.npy"
    raw = bytearray(path.read_bytes())
    raw[-5] ^= 64
    path.write_bytes(raw)
    again = Counting()
    np.testing.assert_array_equal(take(tmp_path, again), plain)
    assert again.calls > 0


def test_a_folder_that_cannot_be_written_is_an_error_only_where_it_was_named(tmp_path: Path) -> None:
    blocked = tmp_path / "file"
    blocked.write_text("")
    with pytest.raises(SpecfmError, match="--cache"):
        extract(ToyEncoder(), [FIELD], 9, bank=Bank(blocked))
    found = extract(ToyEncoder(), [FIELD], 9, bank=Bank(blocked, strict=False))
    assert len(found.X_ND) == len(found.samples)


def test_trouble_with_a_scene_is_not_taken_for_trouble_with_the_folder(tmp_path: Path) -> None:
    class Torn(ToyEncoder):
        def __call__(self, *args: Any) -> Any:
            raise OSError("the scene is gone")

    with pytest.raises(OSError, match="the scene is gone"):
        take(tmp_path, Torn())


def test_two_at_once_compute_twice_and_agree(tmp_path: Path) -> None:
    from specfm.locks import RunLock

    scene = replace(FIELD)
    take(tmp_path / "other", ToyEncoder(), scene)
    key = entries(tmp_path / "other")[0].name
    with RunLock(tmp_path, f"{key}.lock"):
        busy = Counting()
        found = take(tmp_path, busy, scene)
    assert busy.calls > 0 and not (tmp_path / key).exists()
    np.testing.assert_array_equal(found, take(tmp_path / "other", ToyEncoder(), scene))


def test_default_folder_follows_the_environment(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("SPECFM_CACHE", str(tmp_path))
    assert default_folder() == tmp_path / "features"
    monkeypatch.delenv("SPECFM_CACHE")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "x"))
    assert default_folder() == tmp_path / "x" / "specfm" / "features"


FILLED = """
import os, sys
from pathlib import Path
from specfm.errors import SpecfmError
from tests.downstream.features.test_bank import Counting, take

class Filling(Counting):
    def __call__(self, *args):
        if self.calls == 5:
            with open(folder / "others", "wb", buffering=0) as handle:
                try:
                    while handle.write(bytes(4096)) == 4096: pass
                except OSError: pass
        return super().__call__(*args)

folder = Path(sys.argv[1])
first = take(folder, Counting(1)).copy()
try:
    take(folder, Filling())
except SpecfmError as error:
    print(error)
(folder / "others").unlink()
kept, rest = Counting(1), Counting()
assert (take(folder, kept) == first).all() and kept.calls == 0
take(folder, rest)
print("then", len(list(folder.iterdir())))
"""


def test_a_disk_that_others_fill_meanwhile_ends_in_a_sentence(tmp_path: Path, repository: Path) -> None:
    """Fault 45: the space was there at the start; a memory map would end in SIGBUS. What was kept before stays."""
    alone = ["unshare", "--user", "--map-root-user", "--mount"]
    mounted = [*alone, "sh", "-c", 'mount -t tmpfs -o size=600k none "$1" && exec "$2" -c "$3" "$1"', "sh"]
    if (
        shutil.which("unshare") is None
        or subprocess.run([*alone, "mount", "-t", "tmpfs", "none", str(tmp_path)], capture_output=True).returncode
    ):
        pytest.skip("no file system can be mounted here")
    done = subprocess.run(
        [*mounted, str(tmp_path), sys.executable, FILLED],
        cwd=repository, env={**os.environ, "PYTHONPATH": str(repository)}, capture_output=True, text=True,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    told, then = done.stdout.splitlines()
    assert "features cannot be kept in" in told and "No space left" in told and "--cache" in told
    assert then == "then 2"
