"""Control: SpecAware's own patch embedding, by the maths of its paper (arXiv 2510.27219; ISPRS J. 234, 2026).

Nothing here is improved, so that it can be compared with: a plain sum over bands, unusable bands that count as zeros,
content pooled over every patch of one fixed image size, wavelengths from 350 to 2550 nm. Two things differ in form, not
in result: sensor name and level may differ from sample to sample, and U is never formed (see ``contraction``).

Shapes: B samples, N tokens, C bands, P pixels of a patch, E = 128 code width, D token width, R rank, G = 1 or B.
"""

from __future__ import annotations

import math
from typing import cast

import torch
from torch import Tensor, nn

from specfm.batch import BandTensors
from specfm.errors import SpecfmError, UsageError
from specfm.models.embeddings.contraction import contract
from specfm.models.patches import Patches
from specfm.models.quadrature import effective_fwhm_nm, safe_wavelengths_nm
from specfm.sensors import LEVELS, QUANTITIES

WIDTH = 128
SHORTEST_NM, LONGEST_NM = 350.0, 2550.0
ATTRIBUTES = ("avc", "avng", "av3", "others", "L1", "L2")  # the closed vocabulary it was trained with
SENTENCE_WIDTH = 384
_LEVEL_2, _SURFACE = LEVELS.index("L2"), QUANTITIES.index("surface_reflectance")


class SpecAwareEmbedding(nn.Module):
    """``token_n = alpha (sum_c U_c V_c x_nc + b)``, U, V and b generated from metadata and band content.

    Args:
        dim: D.
        patch_size: p (published: 8).
        image_size: side of the only image it can read, in pixels; what is over a whole number of patches is cut off.
        rank: R.

    Attributes:
        image_size: as far as patches fill it.
    """

    # Zeroed bands are data (2, 6), bands are summed (3), the range is limited (5), content sees every patch (8).
    claims = frozenset({1, 4, 7, 9})

    def __init__(self, dim: int, patch_size: int = 8, image_size: int = 224, rank: int = 64):
        super().__init__()
        if image_size < patch_size:
            raise UsageError(f"image_size {image_size} is smaller than the patch of {patch_size} pixels; raise it")
        self.dim, self.rank, self.pixels = dim, rank, patch_size**2
        self.tokens = (image_size // patch_size) ** 2
        self.image_size = image_size // patch_size * patch_size
        self.meta = _MetaCode()
        self.mixer = nn.TransformerEncoderLayer(
            WIDTH, nhead=4, dim_feedforward=WIDTH, dropout=0.0, activation="gelu", batch_first=True, norm_first=True
        )
        self.content = _ContentCode(self.tokens)
        self.fusion = Fusion()
        self.semantic = generator(dim * rank)
        self.spatial = generator(rank * self.pixels)
        self.bias = nn.Sequential(
            nn.LayerNorm(WIDTH), nn.Linear(WIDTH, WIDTH // 2), nn.GELU(), nn.Linear(WIDTH // 2, dim)
        )
        self.alpha = nn.Parameter(torch.tensor(0.02))
        for module in self.modules():
            if isinstance(module, nn.Linear):
                nn.init.trunc_normal_(module.weight, std=0.02)
                nn.init.zeros_(module.bias)
        nn.init.zeros_(cast(nn.Linear, self.bias[-1]).weight)

    def band_codes(self, bands: BandTensors) -> Tensor:
        """code_GCE: one per band from metadata alone; the decoder of masked pretraining starts from them too."""
        meta_GCE = self.meta(bands)
        return meta_GCE + self.mixer(meta_GCE)

    def codes(self, patches: Patches) -> Tensor:
        """code_BCE: one per band and sample.

        Raises:
            SpecfmError: another number of patches than ``image_size`` makes, or wavelengths outside 350-2550 nm.
        """
        found = patches.x_BCNP.shape[2]
        if found != self.tokens:
            raise SpecfmError(
                f"embedding 'specaware' was built for {self.tokens} patches and was given {found}; its content module "
                f"reads every patch of one image size, so hand it windows of {self.image_size} pixels a side"
            )
        meta_GCE = patches.bands.once("codes", lambda: self.band_codes(patches.bands))
        return self.fusion(meta_GCE.expand(patches.x_BCNP.shape[0], -1, -1), self.content(patches.x_BCNP)) + meta_GCE

    def forward(self, patches: Patches) -> Tensor:
        """tokens_BND; U's last layer is linear, so the sum over bands goes before it (see :func:`contract`)."""
        code_BCE = self.codes(patches)
        basis_BCRP = self.spatial(code_BCE).unflatten(-1, (self.rank, self.pixels))
        last = cast(nn.Linear, self.semantic[-1])
        generator_KRD = torch.cat([last.weight, last.bias[:, None]], dim=1).t().unflatten(1, (self.dim, self.rank))
        hidden_BCK = nn.functional.pad(self.semantic[:-1](code_BCE), (0, 1), value=1.0)
        tokens_BND = contract(patches.x_BCNP, basis_BCRP, hidden_BCK, generator_KRD.transpose(1, 2))
        return self.alpha * (tokens_BND + self.bias(code_BCE.mean(1))[:, None])

    def reference(self, patches: Patches) -> Tensor:
        """tokens_BND as published: U of every band and every band's own token are formed, then summed."""
        code_BCE = self.codes(patches)
        basis_BCRP = self.spatial(code_BCE).unflatten(-1, (self.rank, self.pixels))
        semantic_BCDR = self.semantic(code_BCE).unflatten(-1, (self.dim, self.rank))
        seen_BNCR = torch.einsum("bcnp,bcrp->bncr", patches.x_BCNP.to(basis_BCRP.dtype), basis_BCRP)
        tokens_BND = torch.einsum("bncr,bcdr->bncd", seen_BNCR, semantic_BCDR).sum(2)
        return self.alpha * (tokens_BND + self.bias(code_BCE.mean(1))[:, None])


def generator(out: int, width: int = WIDTH, dropout: float = 0.1) -> nn.Sequential:
    """From a band code to the entries of a matrix; the last layer is linear in ``width // 2`` hidden numbers."""
    return nn.Sequential(
        nn.LayerNorm(width),
        nn.Linear(width, width),
        nn.GELU(),
        nn.Dropout(dropout),
        nn.Linear(width, width // 2),
        nn.GELU(),
        nn.Linear(width // 2, out),
    )


class Fusion(nn.Module):
    """``f1 + join(f1, f2)`` with f1, f2 linear in the two inputs."""

    def __init__(self, width: int = WIDTH, dropout: float = 0.1) -> None:
        super().__init__()
        self.first = nn.Linear(width, width)
        self.second = nn.Linear(width, width)
        self.join = nn.Sequential(nn.Linear(2 * width, width), nn.LayerNorm(width), nn.GELU(), nn.Dropout(dropout))

    def forward(self, a: Tensor, b: Tensor) -> Tensor:
        first = self.first(a)
        return first + self.join(torch.cat([first, self.second(b)], dim=-1))


class _MetaCode(nn.Module):
    """Wavelength and FWHM in a learned mixture, fused with sensor name and processing level.

    The original feeds frozen sentence vectors of the two attributes. They are no parameters, and nothing is downloaded
    here: a new model holds fixed random vectors in their place, ``load_published`` takes the real ones.
    """

    period_nm_T: Tensor
    sentence_AS: Tensor

    def __init__(self) -> None:
        super().__init__()
        period_T = torch.logspace(math.log10(SHORTEST_NM), math.log10(LONGEST_NM), WIDTH // 2, dtype=torch.float64)
        self.register_buffer("period_nm_T", period_T, persistent=False)
        self.fwhm = nn.Sequential(nn.Linear(1, 64), nn.GELU(), nn.Linear(64, WIDTH))
        self.mixture = nn.Parameter(torch.tensor([0.8, 0.2]))
        self.residual = nn.Sequential(nn.Linear(WIDTH, 2 * WIDTH), nn.GELU(), nn.Linear(2 * WIDTH, WIDTH))
        vectors = torch.randn(len(ATTRIBUTES), SENTENCE_WIDTH, generator=torch.Generator().manual_seed(0))
        self.register_buffer("sentence_AS", nn.functional.normalize(vectors, dim=1))
        self.attribute = nn.Linear(SENTENCE_WIDTH, WIDTH // 2)
        self.fusion = Fusion()

    def forward(self, bands: BandTensors) -> Tensor:
        """code_GCE."""
        lam_GC = safe_wavelengths_nm(bands)
        if bool(((lam_GC < SHORTEST_NM) | (lam_GC > LONGEST_NM)).any()):
            raise SpecfmError("embedding 'specaware' reads bands from 350 to 2550 nm only; mark the others unusable")
        cycles = lam_GC[..., None] / self.period_nm_T
        angle = (2 * math.pi * (cycles - cycles.round())).float()
        wavelength = torch.cat([angle.sin(), angle.cos()], dim=-1)
        fwhm = self.fwhm(((effective_fwhm_nm(bands) - 5) / 10).float()[..., None])
        share = self.mixture.softmax(0)
        spectral = share[0] * wavelength + share[1] * fwhm
        spectral = spectral + self.residual(spectral)
        rows = torch.tensor(
            [[ATTRIBUTES.index(name), ATTRIBUTES.index(level)] for name, level in _attributes(bands)],
            device=lam_GC.device,
        )
        attributes = self.attribute(self.sentence_AS[rows]).flatten(1)[:, None].expand_as(spectral)
        return self.fusion(spectral, attributes) + spectral


class _ContentCode(nn.Module):
    """Average and maximum of every patch of a band, each list through its own MLP, joined."""

    def __init__(self, tokens: int):
        super().__init__()
        hidden = max(tokens // 4, 1)
        self.average = nn.Sequential(nn.Linear(tokens, hidden), nn.GELU(), nn.Linear(hidden, WIDTH))
        self.maximum = nn.Sequential(nn.Linear(tokens, hidden), nn.GELU(), nn.Linear(hidden, WIDTH))
        self.join = nn.Sequential(
            nn.Linear(2 * WIDTH, 2 * WIDTH), nn.GELU(), nn.Dropout(0.1), nn.Linear(2 * WIDTH, WIDTH)
        )
        self.norm = nn.LayerNorm(WIDTH)

    def forward(self, x_BCNP: Tensor) -> Tensor:
        """code_BCE."""
        both = torch.cat([self.average(x_BCNP.mean(-1)), self.maximum(x_BCNP.amax(-1))], dim=-1)
        return self.norm(self.join(both))


def _attributes(bands: BandTensors) -> list[tuple[str, str]]:
    """(sensor, level) of each grid in SpecAware's closed vocabulary: what it does not know is 'others' and 'L1'."""
    found = []
    for name, level, quantity in zip(bands.names, bands.level_G.tolist(), bands.quantity_G.tolist(), strict=True):
        plain = "".join(c for c in (name or "").lower() if c.isalnum())
        sensor = "others"
        if plain.startswith("aviris"):
            sensor = "avng" if "ng" in plain else "av3" if plain.startswith("aviris3") else "avc"
        surface = level == _LEVEL_2 or (level < 0 and quantity == _SURFACE)
        found.append((sensor, "L2" if surface else "L1"))
    return found
