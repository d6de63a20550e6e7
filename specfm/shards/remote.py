"""Shards in object stores: fetched into a cache folder of this machine when they are first read.

``data.shards: [s3://bucket/folder]``, or any other address that fsspec knows (``gs://``, ``https://``, ``memory://``).
A shard is fetched whole, once for all processes of a machine, and published in the cache only if its size and SHA-256
are those of the manifest; a connection that is cut goes on where it stopped. Folder: ``remote`` in that of
:func:`specfm.shards.cache.cache_folder` (``SPECFM_CACHE``). It holds at most ``SPECFM_REMOTE_CACHE_GB`` (default 100):
the least recently used shards go, never one that is being read.

Files are named by their digests, so a folder that was built anew is never mistaken for the old one. A compressed shard
is decoded at each read: an uncompressed copy would have no bound.
"""

from __future__ import annotations

import hashlib
import logging
import os
import re
import time
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager, suppress
from pathlib import Path
from typing import Any

from specfm.errors import SpecfmError, UsageError
from specfm.files import TEMPORARY_PREFIX, publish_file, temporary_sibling
from specfm.shards import schema
from specfm.shards.cache import cache_folder
from specfm.shards.index import Listed
from specfm.shards.manifest import listed_shards, parse_manifest
from specfm.shards.reader import ShardReader

try:
    import fcntl
except ImportError:  # not a POSIX system: all else of shards works there
    fcntl = None  # type: ignore[assignment]

log = logging.getLogger(__name__)
LIMIT, LIMIT_GB = "SPECFM_REMOTE_CACHE_GB", 100.0
TRIES = 6  # without a byte more between them
PAUSE_S = 0.5  # before the second; doubled for each further
BLOCK = 1 << 22
FULL_S = 60.0  # so long is waited for others to end reading from a cache that is full


def is_address(path: object) -> bool:
    """Whether it is the address of an object store and no path: ``scheme://...``."""
    return isinstance(path, str) and re.match(r"[A-Za-z][A-Za-z0-9+.:-]*://", path) is not None


def limit_bytes() -> int:
    """How much the cache may hold.

    Raises:
        UsageError: the environment variable holds no positive number.
    """
    text = os.environ.get(LIMIT, str(LIMIT_GB))
    try:
        if float(text) > 0:
            return int(float(text) * 1e9)
    except (ValueError, OverflowError):
        pass
    raise UsageError(f"{LIMIT} must be a number of gigabytes, got {text[:40]!r}")


def _store(address: str) -> tuple[Any, str]:
    """File system and path of an address.

    Raises:
        UsageError: a scheme that cannot be read here.
    """
    try:
        from fsspec.core import url_to_fs
    except ImportError:
        raise UsageError(f"{address} needs fsspec; install specfm[remote]") from None
    if "::" in address:
        raise UsageError(f"{address}: addresses within addresses are not read; give that of the folder itself")
    try:
        return url_to_fs(address)
    except (ImportError, ValueError) as error:
        raise UsageError(
            f"{address} cannot be read here ({error}); install specfm[remote] (s3:// specfm[s3], gs:// specfm[gs]), or "
            "copy the folder"
        ) from None


def open_folder(address: str) -> list[RemoteReader]:
    """Readers of the shards of a remote folder; only its manifest is fetched.

    Raises:
        ShardError: no manifest there, or a damaged one.
        SpecfmError: it cannot be reached.
        UsageError: not an address, or a cache too small for a shard.
    """
    if fcntl is None:
        raise UsageError(f"{address}: remote shards need file locks, which this system lacks; copy the folder here")
    address = address.rstrip("/")
    where = f"{address}/{schema.MANIFEST}"
    content = b"".join(_blocks(where, None))
    manifest = parse_manifest(content, where)
    rows, bound = manifest["shards"], limit_bytes()
    if (largest := max((row["size"] for row in rows), default=0)) > bound:
        raise UsageError(f"{address} has a shard of {largest / 1e9:.3g} GB, more than {LIMIT} allows; raise it")
    if (total := sum(row["size"] for row in rows)) > bound:
        log.warning(
            "%s holds %.3g GB, the cache %.3g: shards will be fetched again and again; raise %s", address, total / 1e9,
            bound / 1e9, LIMIT,
        )  # fmt: skip
    told = listed_shards(manifest, where)
    return [RemoteReader(f"{address}/{row['file']}", row, each) for row, each in zip(rows, told, strict=True)]


class RemoteReader(ShardReader):
    """A shard that is fetched when it is read; used as any other.

    Args:
        address: of the shard.
        row: of the manifest.
        listed: what the manifest tells of it; None fetches it now.
    """

    _keeps_open = False  # an open file would keep its place on the disk

    def __init__(self, address: str, row: dict[str, Any], listed: Listed | None) -> None:
        self.address, self.size, self.sha256 = address, int(row["size"]), str(row["sha256"])
        if not re.fullmatch(r"[0-9a-f]{64}", self.sha256) or self.size < 1:
            raise schema.ShardError(f"{address}: its manifest gives no proper size and sha256; build the folder again")
        path = cache_folder() / "remote" / f"{self.sha256[:32]}-{row['file'][-80:]}"
        super().__init__(path, "off", "off", listed)

    def known_good(self) -> bool:
        """Its SHA-256 is compared whenever it is fetched."""
        return True

    def compare(self) -> int:
        """Fetch every byte anew, keep none; returns how many they were.

        Raises:
            SpecfmError: they cannot be fetched, or are not what the manifest says.
        """
        digest, got = hashlib.sha256(), 0
        for block in _blocks(self.address, self.size):
            digest.update(block)
            got += len(block)
        _refuse_other(self.address, got, self.size, digest.hexdigest(), self.sha256)
        return got

    @contextmanager
    def _at_hand(self) -> Iterator[Path]:
        with self._lent():
            yield self.path

    def _lent(self) -> AbstractContextManager[int]:
        return self._fetched()

    @contextmanager
    def _fetched(self) -> Iterator[int]:
        """An open descriptor of the cached file, which is not given up meanwhile."""
        while True:
            with suppress(FileNotFoundError):
                descriptor = os.open(self.path, os.O_RDONLY | os.O_CLOEXEC)
                try:
                    fcntl.flock(descriptor, fcntl.LOCK_SH)
                    status = os.fstat(descriptor)
                    if status.st_nlink and status.st_size == self.size:
                        os.utime(descriptor, ns=(time.time_ns(), status.st_mtime_ns))  # for who comes to make room
                        yield descriptor
                        return
                finally:
                    os.close(descriptor)
            fetch(self.address, self.path, self.size, self.sha256)


# -- fetching ---------------------------------------------------------------------------------------------------


@contextmanager
def _alone(path: Path) -> Iterator[None]:
    """Held by one thread of one process of this machine at a time; let go of when the process ends, however it does."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with open(path, "w") as handle:
        fcntl.flock(handle, fcntl.LOCK_EX)
        yield


def fetch(address: str, path: Path, size: int, sha256: str) -> None:
    """Bring a shard into the cache, unless another process just did.

    Raises:
        SpecfmError: it cannot be reached, or is not what the manifest says, twice.
    """
    with _alone(path.with_name(f".{path.name}.lock")):
        if path.exists() and path.stat().st_size == size:
            return
        log.info("fetching %s (%.3g MB)", address, size / 1e6)
        for last in (False, True):
            temporary = temporary_sibling(path)
            try:
                with _reserved(temporary, size) as handle:
                    digest, got = hashlib.sha256(), 0
                    for block in _blocks(address, size):
                        digest.update(block)
                        got += handle.write(block)
                        if got > size:
                            break
                    handle.flush()
                    if (got, digest.hexdigest()) == (size, sha256):
                        publish_file(temporary, path, overwrite=True)
                        return
            except OSError as error:
                raise SpecfmError(f"{address} cannot be kept in {path.parent} ({error}); free some space") from None
            finally:
                temporary.unlink(missing_ok=True)
            if last:
                _refuse_other(address, got, size, digest.hexdigest(), sha256)


def _refuse_other(address: str, got: int, size: int, digest: str, sha256: str) -> None:
    if (got, digest) != (size, sha256):
        raise schema.ShardError(
            f"{address} is not what its manifest says ({got} bytes, sha256 {digest[:12]}, not {size}, {sha256[:12]}); "
            "upload the folder again"
        )


@contextmanager
def _reserved(temporary: Path, size: int) -> Iterator[Any]:
    """A new file whose place in the cache is taken from the first moment on; locked while its writer lives."""
    began = time.monotonic()
    while True:
        with _alone(temporary.parent / ".room.lock"):
            if _make_room(temporary.parent, size):
                handle = open(temporary, "wb")  # noqa: SIM115
                fcntl.flock(handle, fcntl.LOCK_EX)
                handle.truncate(size)
                break
        if time.monotonic() - began > FULL_S:
            raise SpecfmError(f"{temporary.parent} is full of shards that are being read; raise {LIMIT}")
        time.sleep(0.05)
    with handle:
        yield handle


def _make_room(folder: Path, size: int) -> bool:
    """Give up the least recently used shards until so much more fits; whether it does."""
    files = []
    for path in folder.iterdir():
        if not path.name.startswith(".") or path.name.startswith(TEMPORARY_PREFIX):
            with suppress(FileNotFoundError):
                status = path.stat()
                half = path.name.startswith(TEMPORARY_PREFIX)  # left by a process that was killed, unless it is locked
                files.append((0 if half else status.st_atime_ns, status.st_size, half, path))
    excess = sum(each[1] for each in files) + size - limit_bytes()
    for _, nbytes, half, path in sorted(files):
        if excess <= 0 and not half:
            break
        with suppress(OSError), open(path, "rb") as handle:
            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)  # refused while it is read or written
            path.unlink()
            excess -= nbytes
    return excess <= 0


def _blocks(address: str, size: int | None) -> Iterator[bytes]:
    """The bytes at an address, in order, through as many connections as it takes.

    Raises:
        SpecfmError: it is not there, may not be read, or gives no byte however often it is asked.
    """
    store, path = _store(address)
    done, failed, whole = 0, 0, False
    while True:
        before = done
        try:
            with store.open(path, "rb", **({"block_size": 0} if whole else {"block_size": BLOCK})) as file:
                if whole:  # a server that gives no parts: what is known already is passed over
                    left = done
                    while left and (skipped := file.read(min(left, BLOCK))):
                        left -= len(skipped)
                    if left:
                        raise OSError("the connection was cut")
                elif done:
                    file.seek(done)
                while block := file.read(BLOCK):
                    done += len(block)
                    yield block
            if size is None or done >= size:
                return
            error: Exception = OSError(f"{done} of {size} bytes came")
        except FileNotFoundError:
            raise schema.ShardError(f"{address} is not there; give the folder that `specfm shard` wrote") from None
        except PermissionError as refused:
            raise SpecfmError(f"{address} may not be read ({refused}); check the account of this machine") from None
        except GeneratorExit:
            raise
        except Exception as cut:  # clients of stores raise what they like
            error = cut
            if isinstance(cut, ValueError) and not whole and "http" in store.protocol:
                whole = True
                log.info("%s: the server gives no parts of files; they are fetched whole", address)
                continue
        failed = 1 if done > before else failed + 1
        if failed >= TRIES:
            why = " ".join(str(error).split())[:120] or type(error).__name__
            raise SpecfmError(f"{address} cannot be read ({why}, {failed} times); try again later")
        log.warning("%s: %s after %d bytes; trying again", address, type(error).__name__, done)
        time.sleep(PAUSE_S * 2 ** (failed - 1))
