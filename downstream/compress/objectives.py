"""What a student minimises on a batch of windows: labels, a teacher, or its own deeper layers.

Shapes: B windows, K classes, N tokens, h w token grid, D width, L exits.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass, replace

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from downstream.compress import losses
from downstream.supervised.heads import PooledHead, Standardise
from downstream.supervised.model import TaskModel
from downstream.supervised.views import View
from specfm.errors import UsageError
from specfm.models.backbone import Backbone
from specfm.models.features import Features


def cropped(view: View, side: int) -> View:
    """The middle of windows, as wide as a model of a smaller window sees them, around the labelled pixel."""
    most = view.x_BHWC.shape[1]
    if side == most:
        return view
    first = most // 2 - side // 2
    last = first + side
    mask = None if view.mask_BHW is None else view.mask_BHW[:, first:last, first:last]
    return replace(view, x_BHWC=view.x_BHWC[:, first:last, first:last], mask_BHW=mask)


@dataclass(frozen=True)
class Seen:
    """What a model makes of windows: features of its head's layer, pooled ones ``[B, D]``, scores ``[B, K]``."""

    features: Features
    pooled_BD: Tensor
    scores_BK: Tensor


def look(model: TaskModel, view: View) -> Seen:
    """Features and scores of windows in one pass, from their middle where the model sees less of them."""
    view = cropped(view, model.tile)
    features = model.layer_features(view)[0]
    pooled_BD = model.pool(features, view)
    return Seen(features, pooled_BD, model.of_pooled(pooled_BD))


class Objective(nn.Module, ABC):
    """A loss of a model on labelled windows; it may hold networks that are trained along and thrown away."""

    @abstractmethod
    def forward(self, model: TaskModel, view: View, y_B: Tensor, step: int) -> tuple[Tensor, Tensor]:
        """(loss, scores ``[B, K]`` of the model).

        Args:
            model: is trained.
            view: windows at least as wide as it sees.
            y_B: their classes.
            step: from 1.
        """


class Labels(Objective):
    """Cross entropy with the labels, of which ``smoothing`` is spread over all classes (Szegedy et al. 2016)."""

    def __init__(self, smoothing: float = 0.0) -> None:
        super().__init__()
        self.smoothing = smoothing

    def forward(self, model: TaskModel, view: View, y_B: Tensor, step: int) -> tuple[Tensor, Tensor]:
        """(loss, scores ``[B, K]`` of the model)."""
        scores_BK = look(model, view).scores_BK
        return F.cross_entropy(scores_BK, y_B, label_smoothing=self.smoothing), scores_BK


class FromTeacher(Objective):
    """``(1 - alpha) CE + alpha logits KL_T + hints FitNets + relational RKD + attention AT``, of a fixed teacher.

    Args:
        student: whose width the hints are brought to the teacher's from.
        teacher: put into evaluation; it may see wider windows, other tokens, or content that the student does not.
        temperature: of scores.
        alpha: share of the teacher's scores against the labels'.
        hints: weight, see :func:`downstream.compress.losses.hint`; features are standardised by the teacher's batch.
        relational: likewise.
        attention: likewise; the student's map is brought to the teacher's grid.
    """

    def __init__(
        self, student: TaskModel, teacher: TaskModel, *, temperature: float = 4.0, alpha: float = 0.5,
        hints: float = 0.0, relational: float = 0.0, attention: float = 0.0,
    ) -> None:  # fmt: skip
        super().__init__()
        if student.label_names != teacher.label_names:
            raise UsageError("teacher and student are of different classes; train both on one split")
        self._teacher = (teacher.eval(),)  # in a tuple: no parameters of the training
        self.temperature, self.alpha = temperature, alpha
        self.hints, self.relational, self.attention = hints, relational, attention
        own, other = (int(each.standardise.mean_LD.shape[1]) for each in (student, teacher))
        self.regressor = nn.Linear(own, other) if hints else None

    def forward(self, model: TaskModel, view: View, y_B: Tensor, step: int) -> tuple[Tensor, Tensor]:
        """(loss, scores ``[B, K]`` of the model)."""
        with torch.no_grad():
            theirs = look(self._teacher[0], view)
        ours = look(model, view)
        kl = losses.softened_kl(ours.scores_BK, theirs.scores_BK, self.temperature)
        loss = (1 - self.alpha) * F.cross_entropy(ours.scores_BK, y_B) + self.alpha * kl
        if self.regressor is not None:
            wanted_BD = _standardised(theirs.pooled_BD)
            loss = loss + self.hints * losses.hint(self.regressor(ours.pooled_BD), wanted_BD)
        if self.relational:
            loss = loss + self.relational * losses.relational(ours.pooled_BD, theirs.pooled_BD)
        if self.attention:
            tokens = (_on_grid(each.features, theirs.features.grid_hw[0]) for each in (ours, theirs))
            loss = loss + self.attention * losses.attention(*tokens)
        return loss, ours.scores_BK


def _standardised(x_BD: Tensor) -> Tensor:
    return (x_BD - x_BD.mean(0)) / x_BD.std(0).clamp_min(1e-6)


def _on_grid(features: Features, grid: tuple[int, int]) -> Tensor:
    """Tokens ``[B, N, D]`` on another grid."""
    h, w = features.grid_hw[0]
    if (h, w) == grid:
        return features.tokens_BND
    map_BDhw = features.tokens_BND.mT.unflatten(-1, (h, w))
    return F.interpolate(map_BDhw, size=grid, mode="bilinear", align_corners=False).flatten(2).mT


class DeepToShallow(Objective):
    """Shallower exits of an encoder learn labels, the scores of its last block and its features.

    "Be your own teacher" (Zhang et al. 2019, arXiv 1905.08094): for each exit ``(1 - alpha) CE + alpha KL_T + lambda
    |F - F_deep|^2``, and CE of the whole. After training :meth:`shallow` is the model with an exit in place of the end.

    Args:
        model: of an encoder of ours; its head reads the last block.
        exits: numbers of blocks (1 and up) after which there is an exit.
        temperature: of scores.
        alpha: share of the deep scores against the labels'.
        features: lambda.

    Raises:
        UsageError: a network without blocks, or an exit that it does not have.
    """

    def __init__(
        self, model: TaskModel, exits: tuple[int, ...], *, temperature: float = 3.0, alpha: float = 0.3,
        features: float = 0.03,
    ) -> None:  # fmt: skip
        super().__init__()
        depth = len(model.encoder.blocks)
        if isinstance(model.encoder, Backbone) or model.layers != [depth - 1]:
            raise UsageError("deep_to_shallow is for encoders of ours with a head on the last block")
        if not exits or any(not 1 <= exit < depth for exit in exits):
            raise UsageError(f"exits are {list(exits)}; an encoder of {depth} blocks has exits 1 to {depth - 1}")
        self.exits, self.temperature, self.alpha, self.features = exits, temperature, alpha, features
        width = model.standardise.mean_LD.shape[1]
        self.heads = nn.ModuleList(PooledHead(1, width, model.classes, 0, model.spec.dropout) for _ in exits)
        self.norms = nn.ModuleList(nn.BatchNorm1d(width, affine=False) for _ in exits)

    def forward(self, model: TaskModel, view: View, y_B: Tensor, step: int) -> tuple[Tensor, Tensor]:
        """(loss, scores ``[B, K]`` of the whole model)."""
        view = cropped(view, model.tile)
        layers = [*(exit - 1 for exit in self.exits), model.layers[0]]
        *shallow, deep = model.encoder.get_intermediate_layers(
            view.x_BHWC, view.bands, view.mask_BHW, n=layers, level_B=view.level_B
        )
        deep_BD = model.pool(deep, view)
        scores_BK = model.of_pooled(deep_BD)
        loss = F.cross_entropy(scores_BK, y_B)
        for features, norm, head in zip(shallow, self.norms, self.heads, strict=True):
            x_BD = norm(model.pool(features, view))
            own_BK = head([x_BD[..., None, None]])[..., 0, 0]
            kl = losses.softened_kl(own_BK, scores_BK.detach(), self.temperature)
            loss = loss + (1 - self.alpha) * F.cross_entropy(own_BK, y_B) + self.alpha * kl
            loss = loss + self.features * losses.hint(x_BD, _standardised(deep_BD.detach()))
        return loss, scores_BK

    @torch.no_grad()
    def shallow(self, model: TaskModel, exit: int) -> TaskModel:
        """The model cut off behind an exit, with that exit's head."""
        from downstream.compress.structured import drop_blocks

        place = self.exits.index(exit)
        found = drop_blocks(model, len(model.encoder.blocks) - exit)
        norm, head = self.norms[place], self.heads[place]
        found.head, found.pools_first = head, True
        found.spec = replace(found.spec, kind="pooled")
        found.standardise = Standardise(1, len(norm.running_mean)).to(found.device)  # type: ignore[arg-type]
        found.standardise.mean_LD[0] = norm.running_mean  # type: ignore[assignment]
        found.standardise.factor_LD[0] = (norm.running_var + norm.eps).rsqrt()  # type: ignore[operator]
        return found.eval()
