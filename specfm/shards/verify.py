"""`specfm verify`: every byte of a folder of shards against its manifest, every sample against its CRC."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from specfm.errors import SpecfmError, UsageError
from specfm.files import sha256_file
from specfm.shards import schema
from specfm.shards.manifest import read_manifest
from specfm.shards.reader import ShardReader
from specfm.shards.remote import is_address, open_folder


@dataclass
class VerifyReport:
    """What was found.

    Attributes:
        files: how many were checked.
        samples: how many they hold.
        nbytes: how much was read.
        problems: one sentence per bad file.
        bad_samples: file name -> ids whose CRC fails.
    """

    files: int = 0
    samples: int = 0
    nbytes: int = 0
    problems: list[str] = field(default_factory=list)
    bad_samples: dict[str, list[int]] = field(default_factory=dict)

    @property
    def ok(self) -> bool:
        """No problem was found."""
        return not self.problems

    def to_dict(self) -> dict[str, Any]:
        """JSON-safe."""
        return {"ok": self.ok, **self.__dict__}


def verify_shards(path: Path | str, progress: Callable[[int, int], None] | None = None) -> VerifyReport:
    """Check a folder (SHA-256 of every file, then the CRC of every sample) or a single shard (CRCs).

    Nothing that this machine remembers of earlier checks is trusted, and nothing is remembered.

    Args:
        path: folder with ``manifest.json``, the address of one (every byte is fetched, none is kept), or a shard.
        progress: called with (bytes done, bytes in all).

    Raises:
        UsageError: no such path.
        ShardError: a folder without a readable manifest.
    """
    if is_address(path):
        return _verify_remote(str(path), progress)
    path = Path(path)
    if not path.exists():
        raise UsageError(f"{path} does not exist; give a folder written by `specfm shard`, or a shard")
    report = VerifyReport()
    if path.is_file():
        _check(path, None, report)
        return report
    rows = read_manifest(path)["shards"]
    total = sum(row["size"] for row in rows) or 1
    for row in rows:
        _check(path / row["file"], row, report)
        if progress:
            progress(report.nbytes, total)
    listed = {row["file"] for row in rows} | {schema.MANIFEST}
    for extra in sorted(p.name for p in path.iterdir() if p.name not in listed and p.suffix == schema.SUFFIX):
        report.problems.append(f"{path / extra} is not in the manifest; delete it or build the folder again")
    return report


def _verify_remote(address: str, progress: Callable[[int, int], None] | None) -> VerifyReport:
    """SHA-256 of every shard in a store: samples whose CRC was right when it was taken are right now."""
    report, readers = VerifyReport(), open_folder(address)
    total = sum(reader.size for reader in readers) or 1
    for reader in readers:
        report.files += 1
        try:
            report.nbytes += reader.compare()
            report.samples += len(reader)
        except SpecfmError as error:
            report.problems.append(str(error))
        if progress:
            progress(report.nbytes, total)
    return report


def _check(file: Path, row: dict[str, Any] | None, report: VerifyReport) -> None:
    report.files += 1
    if not file.is_file():
        report.problems.append(f"{file} is missing; copy it again or build the folder again")
        return
    size = file.stat().st_size
    report.nbytes += size
    if row is not None and size != row["size"]:
        report.problems.append(f"{file} has {size} bytes, its manifest says {row['size']}; copy or build it again")
        return
    changed = row is not None and sha256_file(file) != row["sha256"]
    try:
        reader = ShardReader(file)
        if row is not None and reader.fingerprint != row["fingerprint"]:
            report.problems.append(
                f"{file} is another shard than its manifest says (fingerprints differ); copy or build it again"
            )
        bad = reader.check_crcs()
        report.samples += len(reader)
        reader.close()
    except (SpecfmError, OSError) as error:
        report.problems.append(str(error))
        return
    if bad:
        report.bad_samples[file.name] = bad
        listed = ", ".join(map(str, bad[:20])) + (", ..." if len(bad) > 20 else "")
        report.problems.append(
            f"{file}: {len(bad)} of {len(reader)} samples fail their CRC: ids {listed}; copy or build it again"
        )
    elif changed:
        report.problems.append(
            f"{file} does not match its sha256, though every sample is whole; bytes between them changed, "
            "copy or build it again"
        )
