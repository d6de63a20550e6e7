"""Publishing files and folders so that a crash never leaves a half-written one under its final name.

This is the only module that renames anything. The order is always the same: write to a temporary name in the same
folder, flush to disk, rename, flush the parent folder. Folders that carry weights or training state also hold a
``MANIFEST.json`` (name, size and SHA-256 of every file, written last): such a folder is valid if and only if it has its
final name and its manifest verifies. A flipped byte in safetensors loads silently; only these hashes catch it.
"""

from __future__ import annotations

import hashlib
import json
import logging
import os
import shutil
import uuid
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path, PurePosixPath
from typing import Any

from specfm.documents import read_json
from specfm.errors import SpecfmError, UsageError

log = logging.getLogger(__name__)

MANIFEST = "MANIFEST.json"
MANIFEST_FORMAT = 1
TEMPORARY_PREFIX = ".tmp-"
_CHUNK = 1 << 22


class IntegrityError(SpecfmError):
    """A file or folder is missing, cut short or altered."""


def fsync_path(path: Path) -> None:
    """Flush one file or folder entry to disk (folders: the names in it)."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    except OSError as error:  # some network file systems refuse fsync on folders; the rename is still atomic there
        if not Path(path).is_dir():
            raise
        log.debug("cannot fsync folder %s: %s", path, error)
    finally:
        os.close(descriptor)


def temporary_sibling(final: Path) -> Path:
    """A fresh hidden name beside ``final`` (same file system, so that the later rename is atomic)."""
    return final.parent / f"{TEMPORARY_PREFIX}{final.name}-{uuid.uuid4().hex[:8]}"


def atomic_write_bytes(path: Path | str, data: bytes) -> None:
    """Write ``data`` so that ``path`` holds either its old content or all of the new one.

    Args:
        path: Final name; its folder is made if needed. An existing file is replaced: callers refuse first where needed.
        data: The whole content.
    """
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = temporary_sibling(path)
    try:
        with open(temporary, "wb") as handle:
            handle.write(data)
            handle.flush()
            os.fsync(handle.fileno())
        os.replace(temporary, path)
    except BaseException:
        temporary.unlink(missing_ok=True)
        raise
    fsync_path(path.parent)


def atomic_write_text(path: Path | str, text: str) -> None:
    """As :func:`atomic_write_bytes`, for UTF-8 text."""
    atomic_write_bytes(path, text.encode())


def atomic_write_json(path: Path | str, value: Any) -> None:
    """As :func:`atomic_write_bytes`, for :func:`json_bytes`."""
    atomic_write_bytes(path, json_bytes(value))


def json_bytes(value: Any) -> bytes:
    """Strict JSON (NaN and infinity are refused), keys in order, as every such file here has it."""
    return (json.dumps(value, indent=2, sort_keys=True, allow_nan=False) + "\n").encode()


def refuse_existing(path: Path, overwrite: bool, option: str = "--out") -> None:
    """Before any work: a file that stands in the way of a result is replaced only by who asks for it.

    Raises:
        UsageError: ``path`` exists and ``overwrite`` is false, or cannot be written at all; names the ``option`` that
            chose it.
    """
    if path.exists() and not overwrite:
        raise UsageError(f"{path} exists; choose another {option} or pass --overwrite")
    refuse_unwritable(path, option)


def refuse_unwritable(path: Path, option: str = "--out") -> None:
    """Before any work: a file that could not be written in the end.

    Raises:
        UsageError: ``path`` is a folder, a file stands where one of its folders should be, or its folder may not be
            written; names the ``option`` that chose it.
    """
    if path.is_dir():
        raise UsageError(f"{path} is a folder; choose another {option}")
    refuse_closed_folder(path.parent, option)


def refuse_closed_folder(folder: Path, option: str = "--out") -> None:
    """Before any work: a folder that cannot be made, or in which nothing can be written.

    Raises:
        UsageError: it or a folder above it is a file, or may not be written; names the ``option`` that chose it.
    """
    nearest = next(each for each in (folder, *folder.parents) if each.exists() or each.is_symlink() or not each.name)
    if not nearest.is_dir():
        raise UsageError(f"{nearest} is not a folder, so nothing can be written below it; choose another {option}")
    if not os.access(nearest, os.W_OK | os.X_OK):
        raise UsageError(f"{nearest} may not be written; choose another {option} or change its permissions")


def publish_file(temporary: Path | str, final: Path | str, overwrite: bool = False) -> None:
    """Flush a finished temporary file and give it its final name in one rename.

    Raises:
        UsageError: ``final`` exists and ``overwrite`` is false.
    """
    temporary, final = Path(temporary), Path(final)
    refuse_existing(final, overwrite)
    fsync_path(temporary)
    os.replace(temporary, final)
    fsync_path(final.parent)


def publish_folder(temporary: Path | str, final: Path | str) -> None:
    """Flush every file below ``temporary``, then give the folder its final name in one rename.

    Raises:
        UsageError: ``final`` exists (a published folder is never replaced).
    """
    temporary, final = Path(temporary), Path(final)
    if final.exists() or final.is_symlink():
        raise UsageError(f"{final} exists; choose another --out")
    for root, _, names in os.walk(temporary):
        for name in names:
            fsync_path(Path(root) / name)
        fsync_path(Path(root))
    os.rename(temporary, final)
    fsync_path(final.parent)


@contextmanager
def staged_folder(final: Path | str, overwrite: bool = False) -> Iterator[Path]:
    """Give a temporary folder to fill; publish it as ``final`` on success, remove it on failure.

    Args:
        final: where it goes.
        overwrite: a folder of that name, which the caller has found to be one to replace, goes once the new one is
            whole.

    Example:
        >>> with staged_folder(Path("out/model")) as folder:      # doctest: +SKIP
        ...     (folder / "config.json").write_text("{}")
        ...     write_manifest(folder)
    """
    final = Path(final)
    if final.is_symlink() or (final.exists() and not overwrite):
        raise UsageError(f"{final} exists; choose another --out")
    refuse_closed_folder(final.parent)
    final.parent.mkdir(parents=True, exist_ok=True)
    temporary = temporary_sibling(final)
    temporary.mkdir()
    try:
        yield temporary
        before = unpublish(final) if overwrite and final.exists() else None
        publish_folder(temporary, final)
    except BaseException:
        shutil.rmtree(temporary, ignore_errors=True)
        raise
    if before is not None:
        shutil.rmtree(before)


def remove_folder(folder: Path) -> None:
    """Delete a published folder; its final name goes first, so a kill half-way leaves nothing that looks valid.

    Of a link only the link goes: what it points to belongs to somebody else.
    """
    doomed = unpublish(folder)
    if doomed.is_symlink():
        doomed.unlink()
    else:
        shutil.rmtree(doomed)


def unpublish(folder: Path) -> Path:
    """Take the final name of a folder, or of a file, away (one rename) and return the temporary name it has now."""
    doomed = temporary_sibling(folder)
    os.rename(folder, doomed)
    return doomed


def keep_aside(folder: Path, name: str) -> Path:
    """Rename a published folder to ``name`` beside it (or ``name.2``, ... if taken); returns its new path."""
    aside, turn = folder.with_name(name), 2
    while aside.exists():
        aside, turn = folder.with_name(f"{name}.{turn}"), turn + 1
    os.rename(folder, aside)
    fsync_path(folder.parent)
    return aside


def remove_temporaries(folder: Path) -> list[Path]:
    """Remove what a killed process left under temporary names in ``folder``; returns what was removed."""
    found = sorted(p for p in folder.glob(f"{TEMPORARY_PREFIX}*")) if folder.is_dir() else []
    for path in found:
        if path.is_dir() and not path.is_symlink():
            shutil.rmtree(path, ignore_errors=True)
        else:
            path.unlink(missing_ok=True)
    return found


def sha256_file(path: Path | str) -> str:
    """SHA-256 of a file's bytes, as 64 hex digits."""
    digest = hashlib.sha256()
    with open(path, "rb") as handle:
        while chunk := handle.read(_CHUNK):
            digest.update(chunk)
    return digest.hexdigest()


def write_manifest(folder: Path | str, **extra: Any) -> dict[str, Any]:
    """Flush every file below ``folder`` and write ``MANIFEST.json`` (name, size, sha256), last.

    Args:
        folder: Folder to describe; files in subfolders are listed as ``sub/name``.
        extra: JSON-safe facts to keep beside the list (kind, version, ...).

    Returns:
        The manifest as written.
    """
    folder = Path(folder)
    files = []
    for path in sorted(p for p in folder.rglob("*") if not p.is_dir()):
        if path == folder / MANIFEST:
            continue
        if path.is_symlink():
            raise IntegrityError(f"{path} is a symbolic link; a manifest lists plain files only")
        fsync_path(path)
        name = path.relative_to(folder).as_posix()
        files.append({"name": name, "size": path.stat().st_size, "sha256": sha256_file(path)})
    from specfm import __version__

    manifest = {"format": MANIFEST_FORMAT, "specfm": __version__, **extra, "files": files}
    atomic_write_json(folder / MANIFEST, manifest)
    return manifest


def read_manifest(folder: Path | str) -> dict[str, Any]:
    """Parse ``MANIFEST.json`` and check its shape and every name in it, without hashing anything.

    Raises:
        IntegrityError: no manifest, unreadable, a newer format, or a name that leaves the folder.
    """
    path = Path(folder) / MANIFEST
    if path.is_symlink():
        raise IntegrityError(f"{path} is a symbolic link; refusing to follow it")
    try:
        manifest = read_json(path)
    except FileNotFoundError:
        raise IntegrityError(f"{path} is missing, so {folder} is not a complete folder") from None
    except (OSError, ValueError) as error:
        raise IntegrityError(f"{path} cannot be read ({error})") from None
    if not isinstance(manifest, dict) or not isinstance(manifest.get("format"), int):
        raise IntegrityError(f"{path} is not a manifest written by specfm")
    if manifest["format"] > MANIFEST_FORMAT:
        writer = manifest.get("specfm", "a later version")
        raise IntegrityError(
            f"{path} was written by specfm {writer} (format {manifest['format']} > {MANIFEST_FORMAT}); update specfm"
        )
    files = manifest.get("files")
    keys = {"name": str, "size": int, "sha256": str}
    if not isinstance(files, list) or not all(
        isinstance(row, dict) and all(isinstance(row.get(key), kind) for key, kind in keys.items()) for row in files
    ):
        raise IntegrityError(f"{path} has no proper list of files")
    for row in files:
        name = row["name"]
        parts = PurePosixPath(name).parts
        if not parts or PurePosixPath(name).is_absolute() or ".." in parts or "\\" in name or "\0" in name:
            raise IntegrityError(f"{path} lists {name[:60]!r}, which would leave the folder; refusing it")
        if len(name.encode(errors="replace")) > 4095 or any(len(part.encode(errors="replace")) > 255 for part in parts):
            raise IntegrityError(f"{path} lists a name of {len(name)} characters, which no file can have; refusing it")
    return manifest


def verify_manifest(folder: Path | str) -> dict[str, Any]:
    """Check that every listed file is there with its size and hash; returns the manifest.

    Files that the manifest does not list are ignored, and readers never open them.

    Raises:
        IntegrityError: one sentence that names the file and what is wrong with it.
    """
    folder = Path(folder)
    if not folder.is_dir():
        raise IntegrityError(f"{folder} is not a folder")
    manifest = read_manifest(folder)
    for row in manifest["files"]:
        path = folder / row["name"]
        for step in [path, *path.parents]:
            if step == folder:
                break
            if step.is_symlink():
                raise IntegrityError(f"{step} is a symbolic link; refusing to follow it")
        if not path.is_file():
            raise IntegrityError(f"{path} is missing")
        size = path.stat().st_size
        if size != row["size"]:
            raise IntegrityError(f"{path} has {size} bytes, its manifest says {row['size']}; copy it again")
        if sha256_file(path) != row["sha256"]:
            raise IntegrityError(
                f"{path} does not match the sha256 in its manifest; its bytes were changed, copy it again"
            )
    return manifest


def require_free_space(folder: Path | str, needed_bytes: int) -> None:
    """Refuse to start a write that cannot fit.

    Raises:
        OSError: fewer than ``needed_bytes`` are free on the file system of ``folder`` (errno ENOSPC).
    """
    import errno

    free = shutil.disk_usage(folder).free
    if free < needed_bytes:
        raise OSError(errno.ENOSPC, f"{free} bytes free, {needed_bytes} needed", str(folder))


def clear_stages(out: Path, names: Sequence[str], what: str, overwrite: bool) -> None:
    """Make room in a folder for what a run of several stages makes there; strangers' files are not touched.

    Args:
        out: the folder.
        names: of the files and folders made in it.
        what: is made, for messages ("demo").
        overwrite: remove those of an earlier run.

    Raises:
        UsageError: one of them is there, or without ``overwrite`` anything else.
    """
    there = [out / name for name in names if (out / name).exists()]
    if there and not overwrite:
        raise UsageError(f"{there[0]} exists; choose another --out or pass --overwrite")
    if not overwrite and out.exists() and (not out.is_dir() or any(out.iterdir())):
        raise UsageError(
            f"{out} exists and holds no {what}; choose another --out or pass --overwrite to work inside it"
        )
    for path in there:
        if path.is_dir():
            remove_folder(path)
        else:
            path.unlink()
