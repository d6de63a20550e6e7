"""Encoders by the names that people of transformers and timm expect: a folder, or a repository of the Hugging Face hub.

What is on the hub is a release folder (:mod:`specfm.checkpoint`), and all that holds for one holds for it: only
safetensors and JSON are read, and every byte is checked against the manifest. Nothing but these files is downloaded.
"""

from __future__ import annotations

import re
import shutil
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING, Any

from specfm.checkpoint import FILES, LIBRARY, STEMS, load, release_of, save, shipped_encoders
from specfm.errors import SpecfmError, UsageError
from specfm.files import MANIFEST

if TYPE_CHECKING:
    from specfm.models.backbone import AnyEncoder

REPOSITORY = re.compile(r"[\w-][\w.-]*/[\w-][\w.-]*", re.ASCII)


def from_pretrained(
    name: str | Path,
    *,
    revision: str | None = None,
    token: str | bool | None = None,
    cache_dir: str | Path | None = None,
    local_files_only: bool = False,
    force_download: bool = False,
    device: str = "cpu",
    align: bool | None = None,
) -> AnyEncoder:
    """Load an encoder from a folder, by its name, or from the hub.

    Args:
        name: what :func:`specfm.load` takes, which goes first; else ``OWNER/NAME`` of a repository.
        revision: branch, tag or commit of the repository.
        token: of the hub, for a private repository; default the one of ``hf auth login``.
        cache_dir: where downloads are kept; default the hub's own cache.
        local_files_only: take what is in the cache, use no network.
        force_download: download again what is in the cache.
        device: cpu or cuda.
        align: see :func:`specfm.load`.

    Returns:
        The encoder in evaluation mode.

    Raises:
        SpecfmError: nothing to load there, no such repository, a changed byte.
    """
    if Path(name).exists() or str(name) in shipped_encoders() or not REPOSITORY.fullmatch(str(name)):
        return load(name, device, align)
    from huggingface_hub import snapshot_download

    wanted = [MANIFEST, *FILES, LIBRARY, STEMS]
    try:
        kept = snapshot_download(
            str(name), revision=revision, token=token, cache_dir=cache_dir, local_files_only=local_files_only,
            force_download=force_download, allow_patterns=wanted,
        )  # fmt: skip
    except Exception as error:  # the client has a dozen kinds, of the network below it too
        raise SpecfmError(
            f"{name} is no folder, and the hub did not give it ({_first_line(error)}); check the name, or the network"
        ) from error
    with tempfile.TemporaryDirectory(prefix="specfm-") as folder:
        # the cache holds links to its blobs, and a release with links is refused
        for file in wanted:
            if (Path(kept) / file).is_file():
                shutil.copyfile(Path(kept) / file, Path(folder) / file)
        try:
            return load(folder, device, align)
        except SpecfmError as error:
            raise type(error)(str(error).replace(folder, str(name))) from None


def save_pretrained(
    encoder: AnyEncoder, folder: str | Path, *, card: dict[str, Any] | None = None, overwrite: bool = False
) -> Path:
    """:func:`specfm.save` under the name that other libraries have for it; same arguments."""
    return save(encoder, folder, card, overwrite=overwrite)


def push_to_hub(
    encoder: AnyEncoder,
    name: str,
    *,
    card: dict[str, Any] | None = None,
    private: bool | None = None,
    token: str | bool | None = None,
    revision: str | None = None,
    commit_message: str = "Upload an encoder of specfm",
    create_pr: bool = False,
) -> str:
    """Upload a release folder to a repository of the hub, which is made if it is not there.

    Args:
        encoder: what is uploaded.
        name: ``OWNER/NAME``.
        card: facts about its training, a ``license`` among them; default: the encoder's own.
        private: whether a new repository is; default what the owner has chosen.
        token: of the hub; default the one of ``hf auth login``.
        revision: branch to commit to.
        commit_message: first line of the commit.
        create_pr: open a pull request in place of a commit.

    Returns:
        Address of the commit.

    Raises:
        UsageError: no name of a repository.
        SpecfmError: the hub refused; says why.
    """
    from huggingface_hub import HfApi

    if not REPOSITORY.fullmatch(name):
        raise UsageError(f"{name!r} is no repository of the hub; give OWNER/NAME")
    hub = HfApi(token=token)
    with tempfile.TemporaryDirectory(prefix="specfm-") as folder:
        release_of(encoder, card).write(Path(folder))
        try:
            hub.create_repo(name, private=private, exist_ok=True)
            done = hub.upload_folder(
                repo_id=name, folder_path=folder, revision=revision, commit_message=commit_message,
                create_pr=create_pr, delete_patterns=[LIBRARY, STEMS],
            )  # fmt: skip
        except Exception as error:  # see above
            raise SpecfmError(
                f"the hub did not take {name} ({_first_line(error)}); log in with `hf auth login`, or check the name"
            ) from error
    return str(done)


def _first_line(error: Exception) -> str:
    return (str(error).strip().splitlines() or [type(error).__name__])[0].rstrip(".")
