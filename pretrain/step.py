"""One training step: two views, encoder, projection, NT-Xent, gradients; in one pass or in the cached two-pass form.

Shapes: B samples on this rank, D width of the encoder, E width of the projection.

**Scale.** Every rank back-propagates (its rows' mean loss) / (number of ranks); the loss gathers negatives with
gradients, so the *sum* of gradients over ranks (`World.sum_gradients`) is the gradient of the mean over the batch:
what one process with the whole batch computes.

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
from pretrain.objectives.negatives import build_rule
from pretrain.objectives.nt_xent import NegativeRule, nt_xent
from pretrain.sampler import mix64
from pretrain.views import make_view
from specfm.batch import Batch
from specfm.engine import faults
from specfm.engine.distributed import World
from specfm.engine.schedule import ramp


@dataclass(frozen=True)
class StepResult:
    """What a step leaves beside the gradients.

    Attributes:
        loss: This rank's loss (mean over its rows), detached, 0-d.
        scalars: Numbers to log, of this rank.
        pooled_BD: Features of the first view, detached. z1_BE, z2_BE: projections of both views, detached.
    """

    loss: Tensor
    scalars: dict[str, float]
    pooled_BD: Tensor
    z1_BE: Tensor
    z2_BE: Tensor


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
        limit = self.config.optim.micro_batch
        size = len(batch)
        rule = build_rule(batch, self.config.objective.negatives)  # on the raw windows, not on their views
        if limit is None or limit >= size:
            z1, z2, pooled, band_loss = self._forward(step, batch, 0, size)
            loss, scalars = self._loss(z1, z2, rule)
            total = loss if band_loss is None else loss + self.config.objective.band_prediction.weight * band_loss
            (total / self.world.size).backward()
        else:
            micro = [(start, min(start + limit, size)) for start in range(0, size, limit)]
            with torch.no_grad():
                first = [self._forward(step, batch.select(*span), span[0], size, predict=False) for span in micro]
            z1 = torch.cat([one[0] for one in first]).requires_grad_()
            z2 = torch.cat([one[1] for one in first]).requires_grad_()
            pooled = torch.cat([one[2] for one in first])
            loss, scalars = self._loss(z1, z2, rule)
            (loss / self.world.size).backward()
            band_loss = self._second_pass(step, batch, micro, z1, z2)
        if band_loss is not None:
            scalars |= {"nt_xent": float(loss.detach()), "band_prediction": float(band_loss.detach())}
            loss = loss.detach() + self.config.objective.band_prediction.weight * band_loss.detach()
        return StepResult(loss.detach(), scalars, pooled.detach(), z1.detach(), z2.detach())

    def _second_pass(
        self, step: int, batch: Batch, micro: list[tuple[int, int]], z1_BE: Tensor, z2_BE: Tensor
    ) -> Tensor | None:
        """Repeat each micro-batch with a graph and its cached gradient; returns the band-prediction loss of all."""
        assert z1_BE.grad is not None and z2_BE.grad is not None
        band_total: Tensor | None = None
        for start, stop in micro:
            z1, z2, _, band_loss = self._forward(step, batch.select(start, stop), start, len(batch))
            total = (z1 * z1_BE.grad[start:stop]).sum() + (z2 * z2_BE.grad[start:stop]).sum()
            if band_loss is not None:
                total = total + self.config.objective.band_prediction.weight * band_loss / self.world.size
                band_total = band_loss.detach() + (0.0 if band_total is None else band_total)
            total.backward()
        return band_total

    def _loss(self, z1_BE: Tensor, z2_BE: Tensor, rule: NegativeRule | None) -> tuple[Tensor, dict[str, float]]:
        objective = self.config.objective
        loss, scalars = nt_xent(z1_BE, z2_BE, objective.temperature, rule, objective.tile)
        spoiled = faults.hit("step.loss")
        if spoiled is not None:
            loss = loss * float(spoiled)
        return loss, scalars

    def _forward(
        self, step: int, batch: Batch, start: int, size: int, predict: bool = True
    ) -> tuple[Tensor, Tensor, Tensor, Tensor | None]:
        """Project both views of a micro-batch that begins at sample ``start`` of this rank's ``size`` samples.

        Returns:
            z1_BE, z2_BE (float32), pooled_BD of the first view, and the band-prediction loss: this micro-batch's share
            of the mean over the rank's samples (None without the head, or if not asked for).
        """
        config, device = self.config, self.world.device
        noise = mix64(config.seed, step, self.world.rank, start)
        torch.manual_seed(int(noise) & 0x7FFFFFFFFFFFFFFF)
        strength = self.strength(step)
        views = [make_view(batch, config.views, config.seed, step, view, strength) for view in (0, 1)]
        with torch.autocast(device.type, torch.bfloat16, enabled=config.optim.precision == "bf16"):
            # Both views in one call: the trunk sees all tokens at once.
            features = self.modules["encoder"](Batch(views[0].parts + views[1].parts))
            z_2BE = self.modules["projection"](features.pooled_BD)
        z1_BE, z2_BE = z_2BE.float().split(len(batch))
        return z1_BE, z2_BE, features.pooled_BD[: len(batch)], None
