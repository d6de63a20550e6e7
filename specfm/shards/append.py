"""More scenes for a finished folder of shards: what is there stays as it is, byte by byte.

Scenes are known by domain and name. One that a shard of the folder was cut from is left alone, if it is still the same
and is cut in the same way; else the command is refused, since its windows would be there twice. All others go into
shards of their own, which the manifest lists once they are complete; until then readers see the folder as it was.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

from specfm.digests import digest_json
from specfm.errors import SpecfmError, UsageError
from specfm.shards import schema
from specfm.shards.manifest import listed_shards, read_manifest
from specfm.shards.reader import ShardReader


class Held:
    """What a finished folder was made from.

    Args:
        out: the folder; one without a manifest holds nothing yet.
        told: called with (shards looked at, shards in all).

    Attributes:
        manifest: of the folder; None where there is none.
        readers: file -> reader.
        scenes: (domain, scene) -> the file that holds it and what it was made from.
    """

    def __init__(self, out: Path, told: Callable[[int, int], None] | None = None) -> None:
        self.manifest: dict[str, Any] | None = None
        self.readers: dict[str, ShardReader] = {}
        self.scenes: dict[tuple[str, str], tuple[str, dict[str, Any]]] = {}
        if not (out / schema.MANIFEST).exists():
            return
        self.manifest = read_manifest(out)
        rows = self.manifest["shards"]
        for row, listed in zip(rows, listed_shards(self.manifest, str(out / schema.MANIFEST)), strict=True):
            reader = ShardReader(out / row["file"], verify="off", listed=listed)
            self.readers[row["file"]] = reader
            for scene in reader.recipe.get("scenes", ()):
                self.scenes[str(scene["domain"]), str(scene["name"])] = (row["file"], scene)
            if told:
                told(len(self.readers), len(rows))

    @property
    def digest(self) -> str:
        """Of the manifest: another command may have added shards meanwhile."""
        return "" if self.manifest is None else digest_json(self.manifest)

    def refuse_other_windows(self, recipe: dict[str, Any]) -> None:
        """A folder is cut in one way.

        Raises:
            UsageError: it was cut in another; names the first thing that differs.
        """
        for file, reader in self.readers.items():
            there = reader.recipe
            if "options" not in there:  # not made by `specfm shard`
                continue
            for key, asked in {**recipe, **recipe["options"]}.items():
                was = there.get(key, there["options"].get(key))
                if key not in ("options", "scenes") and was != asked:
                    raise UsageError(
                        f"{reader.path.parent / file} was cut with {key.replace('_', ' ')} {was}, not {asked}; append "
                        "with the options that the folder was made with, or choose another --out"
                    )

    def file_of(self, identity: dict[str, Any]) -> str | None:
        """The shard that holds a scene; None where none does.

        Raises:
            UsageError: a scene of this name is there, and another one.
        """
        file, there = self.scenes.get((str(identity["domain"]), str(identity["name"])), (None, None))
        if there is None or there == identity:
            return file
        changed = next(key for key in {**there, **identity} if there.get(key) != identity.get(key))
        raise UsageError(
            f"scene {identity['name']!r} of domain {identity['domain']!r} is in {file} already, made from another "
            f"{changed}; give the new one another name, leave it out, or build the folder again"
        )

    def refuse_changed(self, out: Path) -> dict[str, Any] | None:
        """The manifest as it is now, which must be what the command began with.

        Raises:
            SpecfmError: another command has changed it meanwhile.
        """
        if Held.digest_of(out) != self.digest:
            raise SpecfmError(f"{out / schema.MANIFEST} was changed by another command meanwhile; run this one again")
        return self.manifest

    @staticmethod
    def digest_of(out: Path) -> str:
        """As :attr:`digest`, of the folder as it is now."""
        return digest_json(read_manifest(out)) if (out / schema.MANIFEST).exists() else ""
