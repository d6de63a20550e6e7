"""The stem: a linear map of generated tokens before the trunk, of its own for every acquisition where it is known.

Noise belongs to an acquisition, so one whitened map for several sensors suits none of them. An encoder pretrained with
``whiten.per: sensor`` or ``scene`` holds a map for each, beside its own, which is that of all of them together.

Shapes: B samples, N tokens, D width, S acquisitions.
"""

from __future__ import annotations

import json
import logging
from collections.abc import Sequence
from dataclasses import asdict, dataclass

import torch
from torch import Tensor, nn

from specfm.digests import digest_parts
from specfm.documents import parse_json
from specfm.errors import SpecfmError

log = logging.getLogger(__name__)
GATHERED = 64  # samples whose maps are copied side by side at once


@dataclass(frozen=True)
class Acquisition:
    """What a map was computed from: all of a domain, or one scene of it. Names as the shards have them; "" unknown."""

    domain: str
    sensor: str = ""
    scene: str = ""


@dataclass(frozen=True)
class Stems:
    """Maps of several acquisitions, as they are saved with an encoder.

    Attributes:
        acquisitions: S of them.
        weight_KSDD: float32; K = 1, or 2 where pixel tokens have maps of their own.
        bias_KSD: float32.
    """

    acquisitions: tuple[Acquisition, ...]
    weight_KSDD: Tensor
    bias_KSD: Tensor

    @property
    def digest(self) -> str:
        """64 hex digits over names and values."""
        return digest_parts([self.to_bytes()], 64)

    def domains(self) -> Stems | None:
        """Those of whole domains alone, None if there are none."""
        keep = [n for n, each in enumerate(self.acquisitions) if not each.scene]
        chosen = tuple(self.acquisitions[n] for n in keep)
        return Stems(chosen, self.weight_KSDD[:, keep], self.bias_KSD[:, keep]) if keep else None

    def to_bytes(self) -> bytes:
        """A safetensors file."""
        from safetensors.torch import save

        tensors = {"weight": self.weight_KSDD, "bias": self.bias_KSD}
        names = {"acquisitions": json.dumps([asdict(each) for each in self.acquisitions])}
        return save({name: tensor.detach().cpu().contiguous() for name, tensor in tensors.items()}, names)

    @classmethod
    def from_bytes(cls, data: bytes) -> Stems:
        """What :meth:`to_bytes` wrote.

        Raises:
            SpecfmError: anything else.
        """
        from safetensors import SafetensorError
        from safetensors.torch import load

        try:
            size = int.from_bytes(data[:8], "little")
            told = parse_json(data[8 : 8 + size], "its header")["__metadata__"]
            names = parse_json(told["acquisitions"], "its list of acquisitions")
            tensors = load(data)
            weight_KSDD, bias_KSD = tensors["weight"], tensors["bias"]
            acquisitions = tuple(Acquisition(**each) for each in names)
        except (SafetensorError, KeyError, TypeError, ValueError) as error:
            raise SpecfmError(f"no stems of acquisitions ({error})") from None
        if weight_KSDD.shape[:-1] != bias_KSD.shape or bias_KSD.shape[1] != len(acquisitions):
            raise SpecfmError("stems of acquisitions whose names, weights and biases do not fit together")
        return cls(acquisitions, weight_KSDD, bias_KSD)


class Stem(nn.Linear):
    """A linear map that starts as the identity, with the maps of acquisitions beside it (buffers, never trained)."""

    weight_SDD: Tensor | None
    bias_SD: Tensor | None

    def __init__(self, dim: int) -> None:
        super().__init__(dim, dim)
        self.acquisitions: tuple[Acquisition, ...] = ()
        self._unknown: set[str | None] = set()
        # not in the state dict: how many there are is no part of the architecture (they are saved as Stems)
        self.register_buffer("weight_SDD", None, persistent=False)
        self.register_buffer("bias_SD", None, persistent=False)
        self.reset()

    @torch.no_grad()
    def reset(self) -> None:
        """The identity."""
        self.set(torch.eye(self.in_features), torch.zeros(self.in_features))

    @torch.no_grad()
    def set(self, weight_DD: Tensor, bias_D: Tensor) -> None:
        """Take this map; those of acquisitions go."""
        self.weight.copy_(weight_DD)
        self.bias.copy_(bias_D)
        self.hold((), None, None)

    def hold(self, acquisitions: Sequence[Acquisition], weight_SDD: Tensor | None, bias_SD: Tensor | None) -> None:
        """Hold maps of acquisitions in place of those held so far."""
        self.acquisitions = tuple(acquisitions)
        # clones: a tensor of inference mode could not be trained through
        self.weight_SDD, self.bias_SD = (
            None if t is None else t.detach().to(self.weight, copy=True) for t in (weight_SDD, bias_SD)
        )

    def rows_of(self, sensors: Sequence[str | None]) -> Tensor | None:
        """``[G]``: which map suits each sensor by its name; -1 = the stem's own, where that is not certain.

        None where no map is held. A name that no domain or several domains have is warned of once.
        """
        if not self.acquisitions:
            return None
        found = []
        for name in sensors:
            rows = [n for n, each in enumerate(self.acquisitions) if not each.scene and each.sensor == (name or "")]
            certain = len(rows) == 1 and bool(name)
            found.append(rows[0] if certain else -1)
            if not certain and name not in self._unknown:
                self._unknown.add(name)
                log.warning(
                    "this encoder has a stem for every acquisition of its pretraining and %s for sensor %s: fit it to "
                    "the scenes without labels (encoder.fit(scenes), or --fit); until then it uses one for all",
                    "several" if rows and name else "none", name or "without a name",
                )  # fmt: skip
        return torch.tensor(found, device=self.weight.device)

    def forward(self, tokens_BND: Tensor, row_G: Tensor | None = None) -> Tensor:
        """Mapped tokens.

        Args:
            tokens_BND: generated tokens.
            row_G: for each sample, or one for all, which acquisition's map; -1 and None: the stem's own.
        """
        if row_G is None or self.weight_SDD is None or self.bias_SD is None:
            return super().forward(tokens_BND)
        weight_SDD = torch.cat([self.weight_SDD, self.weight[None]])  # -1 is the last
        bias_SD = torch.cat([self.bias_SD, self.bias[None]])
        if len(row_G) == 1:
            return nn.functional.linear(tokens_BND, weight_SDD[row_G[0]], bias_SD[row_G[0]])
        pieces = zip(tokens_BND.split(GATHERED), row_G.split(GATHERED), strict=True)
        return torch.cat([torch.baddbmm(bias_SD[r][:, None], t, weight_SDD[r].mT) for t, r in pieces])
