"""Baking: an encoder for the bands of one sensor, with everything that follows from the bands alone worked out.

Quadrature weights, band codes, generated kernels, statistics by wavelength and maps between sensors become constants.
Where tokens are one linear map of a patch once the bands are known (metadata-only ``hyper``, ``basis``, ``dofa``,
``fixed``), embedding, stem and alignment become a single matrix; where they also depend on content, that branch stays.
The result is an ordinary encoder that shares its trunk with the one it was made of.

Shapes: B samples, C bands, N tokens, P pixels of a patch, M = C * P, D width, G = 1 grid.
"""

from __future__ import annotations

import copy
from collections.abc import Callable
from dataclasses import fields, replace
from typing import Any, TypeVar
from uuid import uuid4

import torch
from torch import Tensor, nn

from specfm.batch import BandTensors
from specfm.errors import SpecfmError
from specfm.models.backbone import AnyEncoder, Backbone
from specfm.models.embeddings import FixedEmbedding
from specfm.models.encoder import Encoder
from specfm.models.stem import Stem
from specfm.sensors import Sensor

IMPULSE = 1024.0  # so large that the bias, which is subtracted again, costs no digits; a power of two costs none itself
Module = TypeVar("Module", bound=nn.Module)


class KnownBands(nn.Module):
    """Bands of one sensor as constants of a graph, with what a model makes of them.

    While it is recording, what is asked (:meth:`BandTensors.once`) is computed and kept; afterwards it is looked up.
    """

    def __init__(self, bands: BandTensors) -> None:
        super().__init__()
        self.names, self.recording = bands.names, True
        self._same = uuid4().hex
        self._parts: dict[str, int] = {}  # how many tensors are kept; 0 = one, not in a tuple
        for each in fields(bands):
            if isinstance(value := getattr(bands, each.name), Tensor):
                self.register_buffer(each.name, value)

    def tensors(self) -> BandTensors:
        """What the model is given."""
        own = {each.name: getattr(self, each.name) for each in fields(BandTensors) if each.name in self._buffers}
        return BandTensors(**own, names=self.names, folded=self._answer)

    def gave(self, bands: Any) -> bool:
        """Whether these are :meth:`tensors` of its own (of its copy, too: tracing looks at copies)."""
        owner = getattr(getattr(bands, "folded", None), "__self__", None)
        return isinstance(owner, KnownBands) and owner._same == self._same

    def _answer(self, what: str, compute: Callable[[], Any]) -> Any:
        if self.recording and what not in self._parts:
            found = compute()
            self._parts[what] = len(found) if isinstance(found, tuple) else 0
            for number, each in enumerate(found if isinstance(found, tuple) else (found,)):
                self.register_buffer(f"{what}_{number}", each.detach().clone())
        if what not in self._parts:
            raise SpecfmError(f"this model was not baked for what it does now ({what}); bake it for this use")
        count = self._parts[what]
        kept = tuple(getattr(self, f"{what}_{number}") for number in range(max(count, 1)))
        return kept if count else kept[0]


def with_own_parts(module: Module) -> Module:
    """A copy that shares weights, and whose parts can be replaced without changing the original."""
    twin = copy.copy(module)
    for name in ("_modules", "_parameters", "_buffers"):
        setattr(twin, name, dict(getattr(module, name)))
    return twin


@torch.no_grad()
def bake(encoder: AnyEncoder, sensor: Sensor) -> tuple[AnyEncoder, KnownBands]:
    """An encoder of the same features for one sensor, in evaluation, and the bands to call it with.

    ``known.tensors()`` stands in place of the sensor; call it once with every kind of input before
    ``known.recording`` is set to False and a graph is made of it.

    Raises:
        SpecfmError: the encoder does not take these bands.
    """
    bands = BandTensors.from_sensors(sensor).to(encoder.device)
    if isinstance(encoder, Backbone):
        return with_own_parts(encoder).eval(), KnownBands(bands)
    bands, move = _to_move(encoder, bands)
    baked = with_own_parts(encoder).eval()
    baked.alignment = None
    if isinstance(encoder.stem, Stem):
        weight_DD, bias_D = _stem_of(encoder.stem, bands, move)
        if encoder.pixel_stem is not None:
            own = None if move is not None else bands
            baked.pixel_stem = _stem(*_stem_of(encoder.pixel_stem, own, None))
        fold = getattr(encoder.embedding, "linear_in_patches", False) and encoder.pixel_stem is None
        baked.stem = nn.Identity() if fold else _stem(weight_DD, bias_D)  # type: ignore[assignment]
        if fold and encoder.brightness is not None:
            baked.brightness = nn.Linear(1, encoder.num_features, bias=False)
            baked.brightness.weight.copy_(weight_DD @ encoder.brightness.weight.double())
    else:
        fold, weight_DD, bias_D = False, None, None
    if getattr(encoder.embedding, "linear_in_patches", False):
        kernel_MD, own_D = linear_map(encoder, bands)
        if fold and weight_DD is not None and bias_D is not None:
            kernel_MD, own_D = kernel_MD @ weight_DD.T, weight_DD @ own_D + bias_D
        baked.embedding = _linear(kernel_MD, own_D, encoder)
    return baked.eval(), KnownBands(bands)


@torch.no_grad()
def linear_map(encoder: Encoder, bands: BandTensors) -> tuple[Tensor, Tensor]:
    """kernel_MD and bias_D (float64) of an embedding that is linear in patches, by what it answers to single values."""
    channels, p = bands.channels, encoder.patch_size
    blank = encoder.prepare(torch.zeros(1, p, p, channels, device=encoder.device), bands)
    x_BCNP = torch.zeros(1, channels, channels, p * p, device=encoder.device)
    bias_D = encoder.embedding(replace(blank, x_BCNP=x_BCNP[:, :, :1])).double()[0, 0]
    columns = []
    each = torch.arange(channels, device=encoder.device)
    for pixel in range(p * p):
        x_BCNP.zero_()[:, each, each, pixel] = IMPULSE
        columns.append((encoder.embedding(replace(blank, x_BCNP=x_BCNP))[0].double() - bias_D) / IMPULSE)
    return torch.stack(columns, 1).flatten(0, 1), bias_D


def _to_move(encoder: Encoder, bands: BandTensors) -> tuple[BandTensors, tuple[Tensor, Tensor] | None]:
    """The bands that an aligned encoder looks at, and the affine map of its alignment (float64), if there is one."""
    if encoder.alignment is None:
        return bands, None
    bands = encoder.alignment.narrow(bands)
    if encoder.alignment.covers(bands)[0]:
        return bands, encoder.alignment.fit(encoder, bands)
    # whose tokens stay as they are, with a warning
    encoder.alignment(encoder, bands, torch.zeros(1, 1, encoder.num_features, device=encoder.device))
    width = encoder.num_features
    return bands, (torch.eye(width).double().to(encoder.device), torch.zeros(width).double().to(encoder.device))


def _stem_of(stem: Stem, bands: BandTensors | None, move: tuple[Tensor, Tensor] | None) -> tuple[Tensor, Tensor]:
    """The map (float64) of a stem that these bands go through, and of the alignment behind it."""
    row_G = None if bands is None or move is not None else stem.rows_of(bands.names)
    row = -1 if row_G is None else int(row_G[0])
    weight_DD, bias_D = stem.weight.detach(), stem.bias.detach()
    if row >= 0 and stem.weight_SDD is not None and stem.bias_SD is not None:
        weight_DD, bias_D = stem.weight_SDD[row], stem.bias_SD[row]
    weight_DD, bias_D = weight_DD.double(), bias_D.double()
    return (weight_DD, bias_D) if move is None else (move[0] @ weight_DD, move[0] @ bias_D + move[1])


def _stem(weight_DD: Tensor, bias_D: Tensor) -> Stem:
    stem = Stem(len(bias_D)).to(weight_DD.device)
    stem.set(weight_DD, bias_D)
    return stem


def _linear(kernel_MD: Tensor, bias_D: Tensor, encoder: Encoder) -> FixedEmbedding:
    channels = len(kernel_MD) // encoder.patch_size**2
    plain = FixedEmbedding(encoder.num_features, encoder.patch_size, channels=channels).to(kernel_MD.device)
    plain.linear.weight.copy_(kernel_MD.T)
    plain.linear.bias.copy_(bias_D)
    return plain
