"""The decoder of masked modelling: visible tokens among mask tokens through ViT blocks, then HyperLinear.

Shapes: B samples of all parts, b samples of one part, N tokens of a window (K of them visible, T read), S bands read,
P pixels of a patch, D encoder width, W decoder width, E width of a band code, G = 1 or b.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from torch import Tensor

from specfm.batch import BandTensors
from specfm.models.decoders.hyperlinear import HyperLinear
from specfm.models.decoders.token_decoder import Positions, Shown, TokenDecoder, part_rows
from specfm.models.embeddings.codes import BandMixer, MetaCode
from specfm.models.features import Features


@dataclass(frozen=True)
class Asked(Shown):
    """What is asked of the decoder for one part of a batch, and what was shown of it.

    Attributes:
        code_GSE: codes of the bands to read.
        read_bT: indices of the tokens to read.
    """

    code_GSE: Tensor
    read_bT: Tensor


class Decoder(TokenDecoder):
    """Visible and mask tokens through ViT blocks, read out by :class:`HyperLinear`.

    Args:
        encoder_width: D.
        patch_size: of the encoder, pixels.
        width: W.
        depth: blocks.
        heads: of a block.
        rank: of HyperLinear.
        code_width: of HyperLinear.
        dropout: of HyperLinear.
        start: of HyperLinear.
        own_codes: make codes of bands here (:meth:`codes`); without, they must come from elsewhere.
    """

    def __init__(
        self,
        encoder_width: int,
        patch_size: int,
        width: int = 512,
        depth: int = 8,
        heads: int = 16,
        rank: int = 64,
        code_width: int = 128,
        dropout: float = 0.0,
        start: float | None = 0.0,
        own_codes: bool = True,
    ) -> None:
        super().__init__(encoder_width, width, depth, heads)
        self.meta = MetaCode(code_width) if own_codes else None
        self.mixer = BandMixer(code_width) if own_codes else None
        self.readout = HyperLinear(width, patch_size, rank, code_width, dropout, start)

    def codes(self, bands: BandTensors, weights_GC: Tensor) -> Tensor:
        """code_GCE of bands, from their metadata alone; mixed across bands by quadrature."""
        assert self.meta is not None and self.mixer is not None, "built without codes of its own"
        return self.mixer(self.meta(bands), weights_GC)

    def forward(self, features: Features, asked: Sequence[Asked], positions: Positions) -> list[Tensor]:
        """pred_bSTP of each part.

        Args:
            features: of the visible tokens, the parts laid end to end and padded to the widest.
            asked: by part.
            positions: of the encoder (:meth:`specfm.models.Encoder.positions`).
        """
        z_BLW, exists_BL = self.tokens(features, asked, positions)
        first, found = int(features.class_BD is not None), []
        for rows, part in zip(part_rows(asked), asked, strict=True):
            length = first + part.exists_bN.shape[1]  # of this part without padding
            z_bLW, exists_bL = z_BLW[rows, :length], exists_BL[rows, :length]
            found.append(self.readout(z_bLW, exists_bL, part.code_GSE, part.read_bT + first))
        return found
