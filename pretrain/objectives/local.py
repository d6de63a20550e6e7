"""NT-Xent between places: a token of one crop is like the token of the other that shows the same ground.

Crops are cut, turned and flipped on their own, so the tokens of one index show different places. Places are therefore
paired where they are: each token's centre is followed back to the scene, and its partner is the token of the other crop
whose centre lies nearest, within half a patch. Negatives are the other places of the same two crops, but for those that
overlap the anchor's. Beside ``nt_xent``, which tells samples apart, it is the combined loss of dense contrastive
learning (DenseCL, arXiv 2011.09157; there partners are found by features, here by place).

Shapes: B samples, N tokens of a crop, T = 2 N tokens of both, D width of the encoder, E of the projection.
"""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional as F

from pretrain.objectives.base import VIEWS, MicroBatch, Objective, Surroundings
from pretrain.objectives.config import LocalConfig
from pretrain.objectives.contrastive import make_projection
from pretrain.objectives.nt_xent import exact_matmul
from pretrain.pairs.config import PairsConfig
from pretrain.views.view import plan_crop
from specfm.errors import UsageError

ROUNDING_PX = 1e-3


class Local(Objective):
    """Tokens of two crops that show one place are alike, and unlike those of the other places; a mean over samples."""

    compares_patches = True

    def __init__(self, config: LocalConfig, around: Surroundings) -> None:
        require_one_ground(around.pairs, "objective.local")
        self.config, self.weight = config, config.weight
        self.projection = make_projection(config.projection, around)
        self.heads = {"local": self.projection}

    def separate(self, part: MicroBatch) -> tuple[Tensor, dict[str, Tensor]]:
        features, size = part.features, len(part.pairs)
        exists_BT = torch.cat(features.token_mask_BN.split(size), 1)
        tokens_BTD = torch.cat(features.tokens_BND.split(size), 1)
        z_BTE = self.projection(torch.where(exists_BT[..., None], tokens_BTD, 0.0))
        centre_BT2 = torch.cat([token_places(part, view, features.tokens_BND.shape[1]) for view in VIEWS], 1)
        loss_B, figures = local_nt_xent(z_BTE, centre_BT2, exists_BT, part.around.patch_size, self.config.temperature)
        return loss_B.mean(), {f"local/{name}": value_B.mean() for name, value_B in figures.items()}


def require_one_ground(pairs: PairsConfig, key: str) -> None:
    """Refuse pairs whose two sides do not show the same ground.

    Raises:
        UsageError: they do not.
    """
    if pairs.kind == "nearest_elsewhere" or (pairs.kind == "same_object" and not pairs.same_place):
        remedy = "set pairs.same_place=true, or " if pairs.kind == "same_object" else ""
        raise UsageError(
            f"{key} compares places that both sides of a pair show, which pairs.kind={pairs.kind} does not give it; "
            f"{remedy}set pairs.kind=views"
        )


def token_places(part: MicroBatch, view: str, tokens: int) -> Tensor:
    """centre_BN2 (float32): row and column in its scene of the centre of each token of a view.

    Args:
        part: samples with their pairs.
        view: one of ``VIEWS``.
        tokens: N, to which parts of fewer tokens are padded.
    """
    number, around = VIEWS.index(view), part.around
    found = []
    for side in part.pairs.sides[number]:
        plan = plan_crop(side, around.views, around.seed, part.step, number, part.strength)
        height, width = side.x_BHWC.shape[1:3]
        centre_BN2 = plan.token_centres((height, width), around.patch_size) + side.origin_B2[:, None]
        found.append(F.pad(centre_BN2, (0, 0, 0, tokens - centre_BN2.shape[1])))
    return torch.cat(found)


def same_places(centre_BT2: Tensor, exists_BT: Tensor, patch: int) -> tuple[Tensor, Tensor]:
    """The token of the other view at the place of each token.

    Args:
        centre_BT2: of the tokens of both views, the first view's before the second's.
        exists_BT: False for padding and for tokens without a valid pixel.
        patch: side of a token, pixels.

    Returns:
        ``partner_BT``, numbers of tokens among all T, and ``found_BT``: False where no centre lies within half a patch
        on both axes, and for tokens that do not exist.
    """
    tokens = centre_BT2.shape[1]
    other_T = torch.arange(tokens, device=centre_BT2.device) // (tokens // 2)
    apart_BTT2 = (centre_BT2[:, :, None] - centre_BT2[:, None]).abs()
    meets_BTT = (apart_BTT2 <= patch / 2 + ROUNDING_PX).all(-1) & (other_T[:, None] != other_T[None])
    meets_BTT = meets_BTT & exists_BT[:, :, None] & exists_BT[:, None]
    distance_BTT = torch.where(meets_BTT, apart_BTT2.square().sum(-1), torch.inf)
    nearest_BT, partner_BT = distance_BTT.min(-1)
    return partner_BT, nearest_BT.isfinite()


def local_nt_xent(
    z_BTE: Tensor, centre_BT2: Tensor, exists_BT: Tensor, patch: int, temperature: float
) -> tuple[Tensor, dict[str, Tensor]]:
    """NT-Xent of tokens against the other places of the same pair of crops, in one batched product.

    Args:
        z_BTE: projected tokens of both views, not normalised.
        centre_BT2: see :func:`same_places`.
        exists_BT: see :func:`same_places`.
        patch: see :func:`same_places`.
        temperature: divides the cosines; logits are float32 (float64 stays), also under autocast.

    Returns:
        ``loss_B``, the mean over those tokens of a sample that have a partner (0 where none has), and by sample
        ``paired``, their share of the tokens that exist, and ``right``, the share of them nearest to their partner.
    """
    partner_BT, found_BT = same_places(centre_BT2, exists_BT, patch)
    with exact_matmul(z_BTE.device.type):
        z_BTE = F.normalize(z_BTE if z_BTE.dtype == torch.float64 else z_BTE.float(), dim=-1)
        logits_BTT = z_BTE @ z_BTE.mT / temperature
    # Tokens that share pixels with the anchor, itself among them, are no negatives of it.
    apart_BTT2 = (centre_BT2[:, :, None] - centre_BT2[:, None]).abs()
    asked_BTT = exists_BT[:, None] & (apart_BTT2 > patch - ROUNDING_PX).any(-1)
    # A token without a partner stands in for its own, or its row of logits would be empty and its gradient NaN.
    own_T = torch.arange(z_BTE.shape[1], device=z_BTE.device)
    target_BT = torch.where(found_BT, partner_BT, own_T)
    asked_BTT = asked_BTT.scatter(2, target_BT[..., None], True)
    logits_BTT = logits_BTT.masked_fill(~asked_BTT, -torch.inf)
    loss_BT = F.cross_entropy(logits_BTT.flatten(0, 1), target_BT.flatten(), reduction="none").view_as(target_BT)
    paired_B = found_BT.sum(1)
    loss_B = torch.where(found_BT, loss_BT, 0.0).sum(1) / paired_B.clamp_min(1)
    right_BT = found_BT & (logits_BTT.detach().argmax(-1) == target_BT)
    return loss_B, {
        "paired": paired_B / exists_BT.sum(1).clamp_min(1),
        "right": right_BT.sum(1) / paired_B.clamp_min(1),
    }
