"""What a model of any kind comes to as a release folder: its files in memory, written whole or not at all.

They are made at once and written when there is time (:mod:`specfm.engine.staging`): what is in them stays, whatever
becomes of the model meanwhile. What the files are is said in :mod:`specfm.checkpoint`, which reads them.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from specfm.documents import parse_json
from specfm.files import atomic_write_bytes, json_bytes, staged_folder, write_manifest

if TYPE_CHECKING:
    from torch import nn

FORMAT = 1
LIBRARY = "library.safetensors"
STEMS = "stems.safetensors"


@dataclass(frozen=True)
class Release:
    """The files of a release folder, but for its manifest.

    Attributes:
        files: bytes by name.
        kind: what the manifest says that the folder holds.
    """

    files: dict[str, bytes]
    kind: str

    @classmethod
    def of(cls, module: nn.Module, config: dict[str, Any], card: dict[str, Any], readme: str, kind: str) -> Release:
        """Of a module as it is now; where it has a ``library`` or ``stems``, they go with it."""
        from safetensors.torch import save as to_bytes

        weights = {name: tensor.detach().cpu().contiguous() for name, tensor in module.state_dict().items()}
        told = {"format": "pt", "kind": kind, "config": json.dumps(config)}  # what tools show of a lone weights file
        files = {
            "config.json": json_bytes({"format": FORMAT, **config}),
            "card.json": json_bytes(card),
            "README.md": readme.encode(),
            "model.safetensors": _ordered(to_bytes(weights, told)),
        }
        for name, part in ((LIBRARY, getattr(module, "library", None)), (STEMS, getattr(module, "stems", None))):
            if part is not None:
                files[name] = part.to_bytes()
        return cls(files, kind)

    def write(self, folder: Path) -> None:
        """Write the files into ``folder``, which exists; the manifest comes last."""
        for name, data in self.files.items():
            atomic_write_bytes(folder / name, data)
        write_manifest(folder, kind=self.kind)

    def publish(self, folder: str | Path, overwrite: bool = False) -> Path:
        """Make the folder, by one rename; returns it.

        Args:
            folder: to be made.
            overwrite: the caller has found what is there to be one to replace.

        Raises:
            UsageError: ``folder`` exists and is not to be replaced.
        """
        folder = Path(folder)
        with staged_folder(folder, overwrite) as temporary:
            self.write(temporary)
        return folder


def _ordered(data: bytes) -> bytes:
    """A safetensors file with its metadata in order: the library writes them in another one each time."""
    size = int.from_bytes(data[:8], "little")
    header = parse_json(data[8 : 8 + size], "the header of weights")
    header["__metadata__"] = dict(sorted(header["__metadata__"].items()))
    text = json.dumps(header, separators=(",", ":"), ensure_ascii=False).encode()
    text += b" " * (-len(text) % 8)  # tensors begin at a multiple of 8
    return len(text).to_bytes(8, "little") + text + data[8 + size :]
