"""Masked prediction in the features of a teacher: no pixels, no negatives (data2vec, I-JEPA).

The student sees some patches of a view. A small predictor says what the teacher, a running average of the student,
makes of the hidden places when it sees everything: all patches and, by default, all bands of the same crop without
noise. Predicting features instead of values (arXiv 2202.03555, 2301.08243) spends nothing on what cannot be predicted,
such as noise. Nothing but the teacher's slowness keeps features from collapsing, so two figures tell of it:
``latent/target_variance`` and ``embedding/rank``.

Shapes: B samples of all parts, b samples of one part, N tokens of a view (K visible), D width.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from pretrain.objectives.base import VIEWS, MicroBatch, Objective, Surroundings
from pretrain.objectives.config import LatentConfig
from pretrain.objectives.local import require_one_ground, same_places, token_places
from pretrain.objectives.masking import split_patches
from pretrain.rng import Keys
from pretrain.views.view import make_view
from specfm.batch import Batch, BatchPart
from specfm.engine.ema import average_of, follow
from specfm.engine.schedule import ramp
from specfm.errors import UsageError
from specfm.models.decoders import Shown, TokenDecoder
from specfm.models.encoder import Encoder
from specfm.models.features import Features
from specfm.models.patches import cut_patches
from specfm.shards import ShardSet

# What a view may change, all of it undone: the same crop with all of its bands, as they are.
UNCHANGED = {
    "keep_low": 1.0, "keep_high": 1.0, "window_probability": 0.0, "merge_probability": 0.0, "gain": 0.0, "tilt": 0.0,
    "noise": 0.0, "pixel_dropout": 0.0, "attribute_dropout": 0.0, "pretreatment": (),
}  # fmt: skip


class Predictor(TokenDecoder):
    """From a student's visible tokens to a teacher's tokens at every place.

    Args:
        encoder_width: D.
        width: of the blocks.
        depth: how many.
        heads: of a block.
    """

    def __init__(self, encoder_width: int, width: int, depth: int, heads: int) -> None:
        super().__init__(encoder_width, width, depth, heads)
        self.readout = nn.Linear(width, encoder_width)

    def forward(self, features: Features, shown: Sequence[Shown], encoder: Encoder) -> Tensor:
        """prediction_BND; see :meth:`specfm.models.decoders.TokenDecoder.tokens`."""
        z_BLW, _ = self.tokens(features, shown, encoder.positions)
        return self.readout(z_BLW if features.class_BD is None else z_BLW[:, 1:])


class Latent(Objective):
    """A student that sees a part predicts a teacher that sees the whole; a mean over samples and both views.

    Attributes:
        teacher: follows the encoder (:meth:`after_step`); one of the heads, so it is saved and restored.
    """

    compares_patches = True

    def __init__(self, config: LatentConfig, around: Surroundings) -> None:
        if config.target == "other":
            require_one_ground(around.pairs, "objective.latent.target=other")
        depth = len(around.encoder.blocks)
        if config.blocks > depth:
            raise UsageError(f"objective.latent.blocks {config.blocks} is more than the encoder's {depth} blocks")
        self.config, self.around, self.weight = config, around, config.weight
        self._whole = around.views.model_copy(update=UNCHANGED)
        self.teacher = average_of(around.encoder)
        self.predictor = Predictor(around.width, **config.predictor.model_dump())
        self.heads = {"latent": self.predictor, "latent_teacher": self.teacher}

    def start(self, encoder: Encoder, shards: ShardSet) -> None:
        self.teacher.library = encoder.library  # an aligned student has an aligned teacher

    def initialise(self, encoder: Encoder) -> None:
        follow(self.teacher, encoder, 0.0)

    def after_step(self, encoder: Encoder, step: int) -> None:
        config = self.config
        follow(self.teacher, encoder, ramp(step, config.momentum, config.momentum_end, config.momentum_steps))

    def separate(self, part: MicroBatch) -> tuple[Tensor, dict[str, Tensor]]:
        found = [self._of_view(part, view, name) for view, name in enumerate(VIEWS)]
        loss, variance = (torch.stack(values).mean() for values in zip(*found, strict=True))
        return loss, {"latent/target_variance": variance.detach()}

    def _of_view(self, part: MicroBatch, view: int, name: str) -> tuple[Tensor, Tensor]:
        """Loss and variance of the targets, means over samples, for the student that sees view ``name``."""
        target_BND, there_BN = self.targets(part, view)
        hidden = [self._hide(each, part.step, view) for each in part.views[name]]
        prepared = [
            part.encoder.prepare(each.x_BHWC, each.bands, each.mask_BHW, keep_bK, stem_B=each.stem_B)
            for each, (keep_bK, _) in zip(part.views[name], hidden, strict=True)
        ]
        shown = [
            Shown(keep_bK, exists_bN, patches.grid_hw, patches.bands.gsd_m_G)
            for (keep_bK, exists_bN), patches in zip(hidden, prepared, strict=True)
        ]
        predicted_BND = self.predictor(part.encoder(prepared), shown, part.encoder)
        width = predicted_BND.shape[1]
        exists_BN = torch.cat([F.pad(s.exists_bN, (0, width - s.exists_bN.shape[1])) for s in shown])
        hidden_BN = torch.cat([_hidden(s, width) for s in shown])
        if self.config.target == "other":
            target_BND, there_BN = self._at_places(part, name, exists_BN, target_BND, there_BN)
        asked_BN = hidden_BN & exists_BN & there_BN
        with torch.autocast(predicted_BND.device.type, enabled=False):
            apart_BN = F.smooth_l1_loss(
                predicted_BND.float(), target_BND, reduction="none", beta=self.config.beta
            ).mean(-1)
        loss_B = torch.where(asked_BN, apart_BN, 0.0).sum(1) / asked_BN.sum(1).clamp_min(1)
        return loss_B.mean(), _variance(target_BND, there_BN).mean()

    def _hide(self, one: BatchPart, step: int, view: int) -> tuple[Tensor, Tensor]:
        """keep_bK, the patches shown, and exists_bN, those with a valid pixel."""
        mask_bHW = one.mask_BHW
        assert mask_bHW is not None, "views say which pixels are valid"
        exists_bN = cut_patches(mask_bHW[..., None], self.around.patch_size).flatten(2).any(-1)
        keys = Keys.of(one.sample_id_B, self.around.seed, step, view)
        return split_patches(keys, exists_bN, self.config.ratio)[0], exists_bN

    @torch.no_grad()
    def targets(self, part: MicroBatch, view: int) -> tuple[Tensor, Tensor]:
        """target_BND (float32) at the teacher's tokens for the student that sees a view, and which of them exist."""
        seen = self._seen_by_teacher(part, view)
        after = self.teacher.get_intermediate_layers(seen, n=self.config.blocks, norm=False)
        tokens = [F.layer_norm(each.tokens_BND.float(), each.tokens_BND.shape[-1:]) for each in after]
        there_BN = after[0].token_mask_BN
        return torch.where(there_BN[..., None], torch.stack(tokens).mean(0), 0.0), there_BN

    def _seen_by_teacher(self, part: MicroBatch, view: int) -> Batch:
        around = self.around
        if self.config.target == "full":
            return make_view(part.pairs.sides[view], self._whole, around.seed, part.step, view, part.strength)
        return part.views[VIEWS[view if self.config.target == "view" else 1 - view]]

    def _at_places(
        self, part: MicroBatch, name: str, exists_BN: Tensor, target_BND: Tensor, there_BN: Tensor
    ) -> tuple[Tensor, Tensor]:
        """The other view's targets at the places of this view's tokens, and where there is one."""
        width = exists_BN.shape[1]
        other = VIEWS[1 - VIEWS.index(name)]
        target_BND = F.pad(target_BND, (0, 0, 0, width - target_BND.shape[1]))
        both_BT = torch.cat([exists_BN, F.pad(there_BN, (0, width - there_BN.shape[1]))], 1)
        centre_BT2 = torch.cat([token_places(part, each, width) for each in (name, other)], 1)
        partner_BT, found_BT = same_places(centre_BT2, both_BT, self.around.patch_size)
        index_BN = (partner_BT[:, :width] - width).clamp_min(0)
        return target_BND.gather(1, index_BN[..., None].expand_as(target_BND)), found_BT[:, :width]


def _hidden(shown: Shown, width: int) -> Tensor:
    """hidden_bN, padded to ``width``: the tokens that the student was not shown."""
    assert shown.keep_bK is not None
    hidden_bN = torch.ones_like(shown.exists_bN).scatter(1, shown.keep_bK, False)
    return F.pad(hidden_bN, (0, width - hidden_bN.shape[1]))


def _variance(target_BND: Tensor, there_BN: Tensor) -> Tensor:
    """variance_B: of a feature over the places of a sample, its mean over features; 0 where all places look alike."""
    count_B11 = there_BN.sum(1).clamp_min(1)[:, None, None]
    mean_B1D = (target_BND * there_BN[..., None]).sum(1, keepdim=True) / count_B11
    apart_BND = torch.where(there_BN[..., None], target_BND - mean_B1D, 0.0)
    return apart_BND.square().sum(1).mean(1) / count_B11[:, 0, 0]
