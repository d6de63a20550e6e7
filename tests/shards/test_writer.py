"""What a written shard holds, and what the writer refuses."""

from __future__ import annotations

import zlib
from pathlib import Path

import h5py
import numpy as np
import pytest

from specfm.errors import SpecfmError, UsageError
from specfm.shards import ShardReader, ShardWriter
from specfm.shards.extents import ALIGNMENT
from specfm.shards.schema import CODECS, ShardError, stable_id, stored_dtype
from tests.shards.make import samples, sensor, write_shard


def test_layout_is_contiguous_by_default_and_never_automatic(tmp_path: Path) -> None:
    for codec in CODECS:
        write_shard(tmp_path / f"{codec}.h5", codec=codec)
        with h5py.File(tmp_path / f"{codec}.h5") as file:
            assert file["patches"].chunks == (None if codec == "none" else (1, 5, 5, 7)), codec
            filters = file["patches"].id.get_create_plist().get_nfilters()
            assert (filters > 0) == (codec in ("gzip", "lz4", "blosc-zstd")), codec


@pytest.mark.parametrize("codec", ("none", "chunks"))
def test_samples_and_new_buffers_begin_on_a_cache_line(tmp_path: Path, codec: str) -> None:
    write_shard(tmp_path / "a.h5", side=16, channels=8, codec=codec)
    reader = ShardReader(tmp_path / "a.h5")
    assert reader.nbytes >= 4096 and not (reader.patches.offsets_N % ALIGNMENT).any()
    for count in range(1, 5):
        assert reader.read(np.arange(count))[0].ctypes.data % ALIGNMENT == 0


def test_crc_covers_patch_and_mask(tmp_path: Path) -> None:
    x, mask = write_shard(tmp_path / "a.h5")
    reader = ShardReader(tmp_path / "a.h5")
    for i in (0, 17, 39):
        assert reader.crc_N[i] == zlib.crc32(mask[i].astype(np.uint8).tobytes(), zlib.crc32(x[i].tobytes()))


def test_mask_is_left_out_when_all_pixels_are_valid(tmp_path: Path) -> None:
    write_shard(tmp_path / "whole.h5", holes=False)
    write_shard(tmp_path / "holes.h5", holes=True)
    with h5py.File(tmp_path / "whole.h5") as whole, h5py.File(tmp_path / "holes.h5") as holes:
        assert "mask" not in whole and "mask" in holes
    assert ShardReader(tmp_path / "whole.h5").read([3])[1].all()


def test_mask_that_first_shows_holes_late_keeps_the_early_windows_valid(tmp_path: Path) -> None:
    x, _ = samples(6)
    mask = np.ones((6, 5, 5), bool)
    mask[5, 0, 0] = False
    with ShardWriter(tmp_path / "a.h5", (5, 5), sensor(7), "int16", "a", count=6) as shard:
        shard.add(x[:3], mask[:3])
        shard.add(x[3:], mask[3:])
    np.testing.assert_array_equal(ShardReader(tmp_path / "a.h5").read(np.arange(6))[1], mask)


def test_statistics_are_those_of_the_valid_pixels(tmp_path: Path) -> None:
    x, mask = write_shard(tmp_path / "a.h5", count=60)
    values = x[mask].astype(np.float64)
    found = ShardReader(tmp_path / "a.h5").statistics
    np.testing.assert_allclose(found["mean"], values.mean(0), rtol=1e-12)
    np.testing.assert_allclose(found["std"], values.std(0), rtol=1e-10)
    np.testing.assert_array_equal(found["min"], values.min(0))
    np.testing.assert_array_equal(found["max"], values.max(0))
    np.testing.assert_array_equal(found["count"], mask.sum())


def test_statistics_leave_out_values_that_are_not_finite(tmp_path: Path) -> None:
    x, mask = samples(8, dtype="float32", holes=False)
    x[2, 1, 1, 3] = np.nan
    with ShardWriter(tmp_path / "a.h5", (5, 5), sensor(7), "float32", "a", count=8) as shard:
        shard.add(x, mask)
    found = ShardReader(tmp_path / "a.h5").statistics
    np.testing.assert_allclose(found["mean"], np.nanmean(x.astype(np.float64), (0, 1, 2)), rtol=1e-12)
    assert found["count"][3] == found["count"][0] - 1


def test_same_input_gives_the_same_bytes(tmp_path: Path) -> None:
    for codec in CODECS:
        write_shard(tmp_path / "1.h5", codec=codec)
        write_shard(tmp_path / "2.h5", codec=codec)
        assert (tmp_path / "1.h5").read_bytes() == (tmp_path / "2.h5").read_bytes(), codec
        (tmp_path / "1.h5").unlink()
        (tmp_path / "2.h5").unlink()


def test_existing_file_is_refused_and_kept(tmp_path: Path) -> None:
    write_shard(tmp_path / "a.h5")
    before = (tmp_path / "a.h5").read_bytes()
    with pytest.raises(UsageError, match="exists"):
        write_shard(tmp_path / "a.h5", count=8)
    assert (tmp_path / "a.h5").read_bytes() == before


def test_nothing_is_published_before_all_announced_samples_are_there(tmp_path: Path) -> None:
    x, mask = samples(4)
    with (
        pytest.raises(UsageError, match="4 samples given, 9 announced"),
        ShardWriter(tmp_path / "a.h5", (5, 5), sensor(7), "int16", "a", count=9) as shard,
    ):
        shard.add(x, mask)
    assert list(tmp_path.iterdir()) == []


def test_error_inside_leaves_nothing(tmp_path: Path) -> None:
    with pytest.raises(ZeroDivisionError), ShardWriter(tmp_path / "a.h5", (5, 5), sensor(7), "int16", "a", count=9):
        raise ZeroDivisionError
    assert list(tmp_path.iterdir()) == []


def test_stored_types() -> None:
    for name in ("uint8", "int16", "uint16", "int32", "float32"):
        assert stored_dtype(name) == name
    assert stored_dtype(">i2") == np.dtype("int16") and stored_dtype(">i2").isnative
    assert stored_dtype("float64") == "float32"
    with pytest.raises(ShardError, match="complex"):
        stored_dtype("complex64")


def test_wide_integers_that_do_not_fit_are_refused_not_wrapped(tmp_path: Path) -> None:
    x = np.full((2, 5, 5, 7), 2**40, np.int64)
    shard = ShardWriter(tmp_path / "a.h5", (5, 5), sensor(7), "int64", "a", count=2)
    with pytest.raises(SpecfmError, match="do not fit int32"):
        shard.add(x)
    shard.abort()


def test_wrong_shapes_and_codecs_are_refused(tmp_path: Path) -> None:
    x, _ = samples(2, side=6)
    shard = ShardWriter(tmp_path / "a.h5", (5, 5), sensor(7), "int16", "a", count=2)
    with pytest.raises(UsageError, match="the shard holds"):
        shard.add(x)
    shard.abort()
    with pytest.raises(UsageError, match="unknown codec 'zip'"):
        ShardWriter(tmp_path / "b.h5", (5, 5), sensor(7), "int16", "a", "zip", count=2)
    assert list(tmp_path.iterdir()) == []


def test_stable_ids_do_not_depend_on_the_process() -> None:
    assert (
        stable_id("group", "neon", "OSBS_1")
        == stable_id("group", "neon", "OSBS_1")
        != stable_id("group", "neonO", "SBS_1")
    )
    assert stable_id("x") == 2858720872202629029
