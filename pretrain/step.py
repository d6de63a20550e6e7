"""One training step: views, encoder, objectives, gradients; in one pass or in the cached two-pass form.

Shapes: B samples on this rank, D width of the encoder.

**Scale.** Every rank back-propagates (its rows' mean loss) / (number of ranks); an objective that couples samples does
so over all ranks, with gradients, so the *sum* of gradients over ranks (``specfm.engine.sync``) is the gradient of the
mean over the batch: what one process with the whole batch computes. `DistributedDataParallel` is not used: it reduces
in every backward pass, and one step of cached gradients has many of these, of which only the sum of all is wanted.

**Cached gradients** (GradCache, arXiv 2101.06983). With ``micro_batch`` smaller than the rank's share, pass 1 makes the
coupled rows of every micro-batch without a graph, the loss of all of them gives one gradient per row, and pass 2
repeats each micro-batch with a graph and feeds it its cached gradients. What is coupled is the whole batch whatever the
micro-batch, so the result does not depend on it. Views depend only on (seed, step, sample id, view), so both passes see
the same ones; dropout and drop path, off by default, are re-seeded alike in both passes by (seed, step, rank,
micro-batch) and are the only noise that depends on the number of ranks.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from pretrain.config import PretrainConfig
from pretrain.objectives.base import MicroBatch, Objective, Rows, Surroundings
from pretrain.objectives.collect import summed, world
from pretrain.pairs.pairing import Pairs
from pretrain.rng import mix64
from specfm.engine import faults, task
from specfm.engine.distributed import World
from specfm.engine.schedule import ramp
from specfm.models.encoder import Encoder


@dataclass(frozen=True)
class StepResult(task.StepResult):
    """What a step leaves beside the gradients.

    Attributes:
        loss: This rank's loss (mean over its rows), detached, 0-d.
        scalars: Numbers to log, of this rank.
        pooled_BD: Features of the first view, detached; None where no objective makes any.
        rows: Coupled rows by objective, detached.
    """

    pooled_BD: Tensor | None
    rows: dict[str, Rows]


@dataclass(frozen=True)
class _Terms:
    """A micro-batch seen by all objectives. ``losses`` and ``figures`` are its share of the means over the rank's."""

    rows: dict[str, Rows]
    losses: dict[str, Tensor]
    figures: dict[str, Tensor]
    pooled_BD: Tensor | None


class PretrainStep:
    """Computes loss and gradients of one batch; the caller reduces the gradients and steps the optimiser.

    Args:
        encoder: The encoder in training.
        objectives: By name; the loss is their sum, each times its weight.
        config: The run's configuration.
        world: This process among all.
    """

    def __init__(
        self, encoder: Encoder, objectives: dict[str, Objective], config: PretrainConfig, world: World
    ) -> None:
        self.encoder, self.objectives, self.config, self.world = encoder, objectives, config, world
        size = encoder.num_features, encoder.patch_size
        self._around = Surroundings(*size, config.views, config.seed, config.pairs, encoder)
        self._coupled = {name: each for name, each in objectives.items() if each.couples}
        self._separate = {name: each for name, each in objectives.items() if each.separates}

    def strength(self, step: int) -> float:
        """Strength of the views at ``step`` (0 = first)."""
        schedule = self.config.schedule
        return ramp(step, schedule.strength_start, schedule.strength_end, schedule.strength_steps)

    def __call__(self, step: int, pairs: Pairs) -> StepResult:
        """Leave this rank's share of the gradients in ``.grad`` of every parameter.

        Args:
            step: Number of the update, from 0.
            pairs: This rank's samples, as stored, each with its partner.
        """
        size = len(pairs)
        limit = self.config.optim.micro_batch or size
        starts = range(0, size, limit)
        totals, spoiled = self._totals(step, pairs), faults.hit("step.loss")
        # before the views and the encoder, so that what it asks of the device does not wait for them
        prepared = {name: objective.prepare(pairs) for name, objective in self._coupled.items()}
        if len(starts) == 1:
            done = [self._terms(step, pairs, 0, totals)]
            rows = done[0].rows
            coupled, scalars = self._couple(rows, prepared)
            self._backward(self._weighted(_joined(coupled, done[0].losses), spoiled))
        else:
            parts = {start: pairs.select(start, min(start + limit, size)) for start in starts}
            with torch.no_grad():
                coupling = parts if self._coupled else {}
                first = [self._terms(step, part, start, None).rows for start, part in coupling.items()]
            rows = {
                name: {key: torch.cat([one[name][key] for one in first]).requires_grad_() for key in first[0][name]}
                for name in self._coupled
            }
            coupled, scalars = self._couple(rows, prepared)
            self._backward(self._weighted(coupled, spoiled))
            done = [self._repeat(step, part, start, totals, rows) for start, part in parts.items()]
        separate = {name: torch.stack([one.losses[name].detach() for one in done]).sum() for name in self._separate}
        losses = {name: loss.detach() for name, loss in _joined(coupled, separate).items()}
        told = {name: torch.stack([one.figures[name] for one in done]).sum() for name in done[0].figures}
        told |= losses if len(losses) > 1 else {}
        if told:  # from the device in one piece
            scalars |= dict(zip(told, torch.stack(list(told.values())).tolist(), strict=True))
        held = {name: {key: row.detach() for key, row in each.items()} for name, each in rows.items()}
        pooled = [one.pooled_BD for one in done if one.pooled_BD is not None]
        pooled_BD = torch.cat(pooled) if pooled else None
        return StepResult(self._weighted(losses, spoiled), scalars, pooled_BD, held)

    def _terms(self, step: int, pairs: Pairs, start: int, totals: dict[str, Tensor] | None) -> _Terms:
        """What all objectives say of a micro-batch that begins at sample ``start`` of this rank's.

        Without ``totals`` only its coupled rows are made.
        """
        config = self.config
        torch.manual_seed(int(mix64(config.seed, step, self.world.rank, start)) >> 1)
        part = MicroBatch(pairs, self.encoder, self._around, step, self.strength(step))
        losses: dict[str, Tensor] = {}
        figures: dict[str, Tensor] = {}
        with torch.autocast(self.world.device.type, torch.bfloat16, enabled=config.optim.precision == "bf16"):
            rows = {name: objective.rows(part) for name, objective in self._coupled.items()}
            for name, total in (totals or {}).items():
                objective = self._separate[name]
                loss, numbers = objective.separate(part)
                share = (objective.count(pairs, step) / total).to(loss.dtype)
                losses[name] = loss * share
                figures |= {key: value * share for key, value in numbers.items()}
        return _Terms(rows, losses, figures, part.pooled_BD)

    def _repeat(self, step: int, pairs: Pairs, start: int, totals: dict[str, Tensor], whole: dict[str, Rows]) -> _Terms:
        """Pass 2: a micro-batch again, with a graph, fed with the cached gradients of its rows."""
        one = self._terms(step, pairs, start, totals)
        share = [
            (row * cached.grad[start : start + len(pairs)]).sum()
            for name, rows in one.rows.items()
            for key, row in rows.items()
            if (cached := whole[name][key]).grad is not None
        ]
        # The cached gradients carry weights and scale of the ranks already; only the other terms still need them.
        self._backward(sum(share) * self.world.size + self._weighted(one.losses))
        return _Terms({}, {n: loss.detach() for n, loss in one.losses.items()}, one.figures, one.pooled_BD)

    def _couple(self, rows: dict[str, Rows], prepared: dict[str, Any]) -> tuple[dict[str, Tensor], dict[str, float]]:
        """Losses and figures of the objectives that couple samples."""
        losses: dict[str, Tensor] = {}
        figures: dict[str, float] = {}
        for name, objective in self._coupled.items():
            losses[name], numbers = objective.couple(rows[name], prepared[name])
            figures |= numbers
        return losses, figures

    def _totals(self, step: int, pairs: Pairs) -> dict[str, Tensor]:
        """By objective: items of its separate loss in the samples that meet, per rank; they stay on the device."""
        if not self._separate:
            return {}
        counts = [float(objective.count(pairs, step)) for objective in self._separate.values()]
        found = summed(torch.tensor(counts, dtype=torch.float64, device=self.world.device))
        return dict(zip(self._separate, found.clamp_min(1) / world()[1], strict=True))

    def _weighted(self, losses: dict[str, Tensor], spoiled: str | None = None) -> Tensor:
        """The sum of losses, each times its weight; ``spoiled`` by a planned fault."""
        total = torch.zeros((), device=self.world.device)
        for name, loss in losses.items():
            total = total + self.objectives[name].weight * loss
        return total if spoiled is None else total * float(spoiled)

    def _backward(self, loss: Tensor | float) -> None:
        if isinstance(loss, Tensor) and loss.requires_grad:
            (loss / self.world.size).backward()


def _joined(coupled: dict[str, Tensor], separate: dict[str, Tensor]) -> dict[str, Tensor]:
    """Losses by objective, whichever of its two parts it has."""
    both = {name: coupled[name] + separate[name] for name in coupled if name in separate}
    return {**coupled, **separate, **both}
