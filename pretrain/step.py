"""One training step: two views, encoder, projection, NT-Xent, gradients; in one pass or in the cached two-pass form.

Shapes: B samples on this rank, D width of the encoder, E width of the projection.

**Scale.** Every rank back-propagates (its rows' mean loss) / (number of ranks); the loss gathers negatives with
gradients, so the *sum* of gradients over ranks (`specfm.engine.sync`) is the gradient of the mean over the batch:
what one process with the whole batch computes. `DistributedDataParallel` is not used: it reduces in every backward
pass, and one step of cached gradients has many of these, of which only the sum of all is wanted.

**Cached gradients** (GradCache, arXiv 2101.06983). With ``micro_batch`` smaller than the rank's share, pass 1 projects
every micro-batch without a graph, the loss of all of them gives one gradient per projection, and pass 2 repeats each
micro-batch with a graph and feeds it its cached gradient. Negatives are those of the whole batch whatever the
micro-batch, so the result does not depend on it. Views depend only on (seed, step, sample id, view), so both passes see
the same ones; dropout and drop path, off by default, are re-seeded alike in both passes by (seed, step, rank,
micro-batch) and are the only noise that depends on the number of ranks.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor, nn

from pretrain.config import PretrainConfig
from pretrain.objectives.band_prediction import band_prediction_loss, band_targets
from pretrain.objectives.negatives import build_rule
from pretrain.objectives.nt_xent import NegativeRule, nt_xent
from pretrain.sampler import mix64
from pretrain.views import make_view
from specfm.batch import Batch
from specfm.engine import faults, task
from specfm.engine.distributed import World
from specfm.engine.schedule import ramp
from specfm.models.encoder import Features


@dataclass(frozen=True)
class StepResult(task.StepResult):
    """What a step leaves beside the gradients.

    Attributes:
        loss: This rank's loss (mean over its rows), detached, 0-d.
        scalars: Numbers to log, of this rank.
        pooled_BD: Features of the first view, detached. z1_BE, z2_BE: projections of both views, detached.
    """

    pooled_BD: Tensor
    z1_BE: Tensor
    z2_BE: Tensor


@dataclass(frozen=True)
class _Projected:
    """Both views of a micro-batch. ``band_loss`` and ``figures`` are its share of the mean over the rank's samples."""

    z1_BE: Tensor
    z2_BE: Tensor
    pooled_BD: Tensor
    band_loss: Tensor | None
    figures: dict[str, Tensor]


class PretrainStep:
    """Computes loss and gradients of one batch; the caller reduces the gradients and steps the optimiser.

    Args:
        modules: ``encoder``, ``projection`` and, if asked for, ``band_prediction``.
        config: The run's configuration.
        world: This process among all.
    """

    def __init__(self, modules: nn.ModuleDict, config: PretrainConfig, world: World) -> None:
        self.modules, self.config, self.world = modules, config, world

    def strength(self, step: int) -> float:
        """Strength of the views at ``step`` (0 = first)."""
        schedule = self.config.schedule
        return ramp(step, schedule.strength_start, schedule.strength_end, schedule.strength_steps)

    def __call__(self, step: int, batch: Batch) -> StepResult:
        """Leave this rank's share of the gradients in ``.grad`` of every parameter.

        Args:
            step: Number of the update, from 0.
            batch: This rank's samples, as stored.
        """
        size, limit = len(batch), self.config.optim.micro_batch
        spans = [(start, min(start + (limit or size), size)) for start in range(0, size, limit or size)]
        rule = build_rule(batch, self.config.objective.negatives)  # on the raw windows, not on their views
        if len(spans) == 1:
            whole = self._project(step, batch, 0, size, self._predicts)
            contrast, scalars = self._contrast(whole.z1_BE, whole.z2_BE, rule)
            self._backward(contrast, whole.band_loss)
            done, z1, z2, pooled = [whole], whole.z1_BE, whole.z2_BE, whole.pooled_BD
        else:
            with torch.no_grad():
                first = [self._project(step, batch.select(*span), span[0], size, False) for span in spans]
            z1 = torch.cat([one.z1_BE for one in first]).requires_grad_()
            z2 = torch.cat([one.z2_BE for one in first]).requires_grad_()
            pooled = torch.cat([one.pooled_BD for one in first])
            contrast, scalars = self._contrast(z1, z2, rule)
            (contrast / self.world.size).backward()
            done = [self._repeat(step, batch, span, z1, z2) for span in spans]
        loss = contrast.detach()
        if self._predicts:
            band_loss = torch.stack([one.band_loss.detach() for one in done if one.band_loss is not None]).sum()
            figures = {name: torch.stack([one.figures[name] for one in done]).sum() for name in done[0].figures}
            scalars |= {"nt_xent": float(loss), **{name: float(value) for name, value in figures.items()}}
            loss = loss + self.config.objective.band_prediction.weight * band_loss
        return StepResult(loss, scalars, pooled.detach(), z1.detach(), z2.detach())

    @property
    def _predicts(self) -> bool:
        return "band_prediction" in self.modules

    def _repeat(self, step: int, batch: Batch, span: tuple[int, int], z1_BE: Tensor, z2_BE: Tensor) -> _Projected:
        """Pass 2: a micro-batch again, with a graph, fed with the cached gradients of its projections."""
        assert z1_BE.grad is not None and z2_BE.grad is not None
        start, stop = span
        one = self._project(step, batch.select(start, stop), start, len(batch), self._predicts)
        # The cached gradients carry the scale of the ranks already; only the other term still needs it.
        surrogate = (one.z1_BE * z1_BE.grad[start:stop]).sum() + (one.z2_BE * z2_BE.grad[start:stop]).sum()
        self._backward(surrogate * self.world.size, one.band_loss)
        return _Projected(one.z1_BE.detach(), one.z2_BE.detach(), one.pooled_BD, one.band_loss, one.figures)

    def _backward(self, contrast: Tensor, band_loss: Tensor | None) -> None:
        weight = self.config.objective.band_prediction.weight
        total = contrast if band_loss is None else contrast + weight * band_loss
        (total / self.world.size).backward()

    def _contrast(self, z1_BE: Tensor, z2_BE: Tensor, rule: NegativeRule | None) -> tuple[Tensor, dict[str, float]]:
        objective = self.config.objective
        loss, scalars = nt_xent(z1_BE, z2_BE, objective.temperature, rule, objective.tile)
        spoiled = faults.hit("step.loss")
        if spoiled is not None:
            loss = loss * float(spoiled)
        return loss, scalars

    def _project(self, step: int, batch: Batch, start: int, size: int, predict: bool) -> _Projected:
        """Encode and project both views of a micro-batch that begins at sample ``start`` of this rank's ``size``."""
        config = self.config
        torch.manual_seed(int(mix64(config.seed, step, self.world.rank, start)) >> 1)
        strength = self.strength(step)
        views = [make_view(batch, config.views, config.seed, step, view, strength) for view in (0, 1)]
        with torch.autocast(self.world.device.type, torch.bfloat16, enabled=config.optim.precision == "bf16"):
            # Both views in one call: the trunk sees all tokens at once.
            features = self.modules["encoder"](Batch(views[0].parts + views[1].parts))
            z1_BE, z2_BE = self.modules["projection"](features.pooled_BD).float().split(len(batch))
            band_loss, figures = self._predict(step, batch, features, strength) if predict else (None, {})
        share = len(batch) / size
        return _Projected(
            z1_BE,
            z2_BE,
            features.pooled_BD[: len(batch)].detach(),
            None if band_loss is None else band_loss * share,
            {name: value * share for name, value in figures.items()},
        )

    def _predict(
        self, step: int, batch: Batch, features: Features, strength: float
    ) -> tuple[Tensor, dict[str, Tensor]]:
        """Mean over both views of the loss of predicting held-out bands (its weight is applied later), and figures."""
        config, settings = self.config, self.config.objective.band_prediction
        losses, figures = [], []
        for view in (0, 1):
            rows = slice(view * len(batch), (view + 1) * len(batch))
            targets = band_targets(
                batch, config.views, settings, config.model.patch_size, config.seed, step, view, strength
            )
            per_token = settings.per == "token"
            tokens = features.tokens_BND[rows] if per_token else features.pooled_BD[rows, None]
            mask = features.token_mask_BN[rows] if per_token else features.token_mask_BN[rows].any(1, keepdim=True)
            predicted = self.modules["band_prediction"](tokens, targets.wavelengths_nm_BT, targets.fwhm_nm_BT)
            loss, numbers = band_prediction_loss(predicted, targets, settings, mask)
            losses.append(loss)
            figures.append(numbers)
        return (losses[0] + losses[1]) / 2, {name: (figures[0][name] + figures[1][name]) / 2 for name in figures[0]}
