"""What of the memory of one process a pretraining takes, from what a trial measured; arithmetic only.

    weights      of everything that is trained, averaged or asked, float32
    gradients    of what is trained
    moments      two of AdamW for each
    windows      of the share of a step, as stored, twice (the next one is on its way)
    activations  what autograd keeps of the samples that are computed at once, a tenth for what operations need, views
    rows         what objectives couple of all samples of a step, three times

With ``parallel=fsdp2`` weights, gradients and moments of blocks are divided, and two blocks are gathered at a time.
With ``model.grad_checkpointing`` what one block keeps comes back while it is computed again.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

from torch import nn

from pretrain.planning.trial import Cost, Part
from specfm.engine.sharded import block_lists

SPARE = 0.1  # of activations, for what is held only while an operation computes
VIEWS = 2  # of the samples that are computed at once, as float32, beside what autograd keeps of them


@dataclass(frozen=True)
class Model:
    """Numbers of a model, in elements.

    Attributes:
        held: of all parameters and buffers.
        trained: parameters that are trained.
        held_blocks: of ``held``, in transformer blocks.
        trained_blocks: of ``trained``, likewise.
        largest_block: parameters of one block.
        depth: blocks of the encoder.
    """

    held: int
    trained: int
    held_blocks: int
    trained_blocks: int
    largest_block: int
    depth: int

    @classmethod
    def of(cls, modules: nn.ModuleDict, beside: Iterable[nn.Module]) -> Model:
        """``beside``: what objectives keep that is not trained with the rest, such as a teacher."""
        every = nn.ModuleList([modules, *beside])
        blocks = [block for blocks in block_lists(modules) for block in blocks]
        inside = {id(each) for block in blocks for each in block.parameters()}
        held = [*every.parameters(), *every.buffers()]
        trained = [each for each in modules.parameters() if each.requires_grad]
        return cls(
            sum(each.numel() for each in held),
            sum(each.numel() for each in trained),
            sum(each.numel() for each in held if id(each) in inside),
            sum(each.numel() for each in trained if id(each) in inside),
            max((sum(each.numel() for each in block.parameters()) for block in blocks), default=0),
            max((len(blocks) for blocks in block_lists(modules)), default=0),
        )


@dataclass(frozen=True)
class Load:
    """What one process has to do in a step.

    Attributes:
        parts: its samples.
        kept: of each part what autograd keeps.
        rows: bytes of what is coupled of all samples of a step.
        micro_batch: samples that are computed at once; None: all.
    """

    parts: Sequence[Part]
    kept: Sequence[Cost]
    rows: float
    micro_batch: int | None

    @property
    def share(self) -> int:
        """Samples of a step on one process."""
        return sum(part.samples for part in self.parts)


def needed(model: Model, load: Load, processes: int, parts_of_blocks: bool) -> dict[str, float]:
    """Bytes by what they are for, the largest a process comes to in a step."""
    divided = processes if parts_of_blocks else 1

    def of(every: int, blocks: int) -> float:
        return 4.0 * (every - blocks + blocks / divided)

    gathered = 8.0 * model.largest_block if divided > 1 else 0.0
    at_once = min(load.micro_batch or load.share, load.share)
    return {
        "weights": of(model.held, model.held_blocks) + gathered,
        "gradients": of(model.trained, model.trained_blocks),
        "moments": 2 * of(model.trained, model.trained_blocks),
        "windows": 2.0 * sum(part.samples * part.stored_bytes for part in load.parts),
        "activations": _activations(load, at_once),
        "rows": 3.0 * load.rows,
    }


def largest_micro_batch(model: Model, load: Load, processes: int, parts_of_blocks: bool, usable: float) -> int:
    """Samples that can be computed at once within ``usable`` bytes, at most the share of a step; 0: not even one."""
    rest = needed(model, load, processes, parts_of_blocks)
    room = usable - sum(rest.values()) + rest["activations"]
    if _activations(load, load.share) <= room:
        return load.share
    low, high = 0, load.share
    while high - low > 1:
        middle = (low + high) // 2
        low, high = (middle, high) if _activations(load, middle) <= room else (low, middle)
    return low


def checkpointed(plain: Sequence[Cost], bare: Sequence[Cost], depth: int) -> list[Cost]:
    """With ``model.grad_checkpointing``: ``bare`` is what is kept until the backward pass, in which what a block of
    ``plain`` keeps comes back, one at a time."""
    blocks = max(depth, 1)
    return [
        Cost(b.always + max(p.always - b.always, 0) / blocks, b.each + max(p.each - b.each, 0) / blocks)
        for p, b in zip(plain, bare, strict=True)
    ]


def _activations(load: Load, at_once: int) -> float:
    """Of so many samples at once: all parts in proportion where these are all, else those of the most costly part, as
    micro-batches are cut from a step part by part."""
    always = max(each.always for each in load.kept)
    costs = [
        (1 + SPARE) * kept.each + 4.0 * VIEWS * part.pixels * part.bands
        for part, kept in zip(load.parts, load.kept, strict=True)
    ]
    if at_once >= load.share:
        return always + sum(cost * part.samples for cost, part in zip(costs, load.parts, strict=True))
    total, left = always, at_once
    for cost, part in sorted(zip(costs, load.parts, strict=True), key=lambda pair: -pair[0]):
        taken = min(left, part.samples)
        total, left = total + cost * taken, left - taken
    return total


def total(needs: Mapping[str, float]) -> float:
    """Bytes in all."""
    return math.fsum(needs.values())
