"""The plan of a pretraining: whether it fits, how long it takes, what it has to read, and what to change.

Figures come from a trial of a few steps (:mod:`pretrain.planning.trial`) and from arithmetic on it
(:mod:`pretrain.planning.memory`); what was measured where is said with each.
"""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn

from pretrain import setup
from pretrain.config import PretrainConfig
from pretrain.planning.memory import Load, Model, checkpointed, largest_micro_batch, needed, total
from pretrain.planning.trial import Cost, Part, Trial
from specfm.brief import brief
from specfm.engine import distributed
from specfm.errors import UsageError
from specfm.rows import Rows

CONTEXT = 0.8e9  # bytes that a GPU's driver and libraries take
USABLE = 0.95  # of the rest: memory falls into pieces
_UNITS = {"": 1e9, "G": 1e9, "GB": 1e9, "GIB": 2**30, "M": 1e6, "MB": 1e6, "MIB": 2**20}


@dataclass(frozen=True)
class Setting:
    """One way to run it.

    Attributes:
        name: what is set, as on the command line.
        needs: bytes of one process by what they are for.
        micro_batch: most samples that can be computed at once; None where the memory is not known.
        fits: as it is; None where the memory is not known.
    """

    name: str
    needs: dict[str, float]
    micro_batch: int | None
    fits: bool | None


@dataclass(frozen=True)
class Plan(Rows):
    """What a run needs. Bytes and seconds; counts of samples are per step.

    Attributes:
        config: the run.
        processes: of it.
        memory: of one process's device; None: not known.
        device: that the trial ran on.
        parts: samples of one process.
        parameters: of the encoder.
        trained: parameters that are trained.
        settings: ways to run it, the first as configured.
        flops: of samples that are computed at once, forward and backward.
        seconds: likewise, on ``device``.
        tflops: a process was said to sustain; None: ``seconds`` count.
        read_s: in which one process reads its share of a step from this storage, or from memory what was read lately.
        checkpoint_bytes: of one.
        doubts: what the run would do although it can hardly be meant.
    """

    config: PretrainConfig
    processes: int
    memory: float | None
    device: str
    parts: list[Part]
    parameters: int
    trained: int
    settings: list[Setting]
    flops: Cost
    seconds: Cost
    tflops: float | None
    read_s: float
    checkpoint_bytes: float
    doubts: list[str]

    __repr__ = brief

    @property
    def share(self) -> int:
        """Samples of one process."""
        return sum(part.samples for part in self.parts)

    @property
    def fits(self) -> bool | None:
        """Whether it fits as configured; None where the memory is not known."""
        return self.settings[0].fits

    @property
    def step_flops(self) -> float:
        """Operations of a step on one process."""
        return self._step(self.flops)

    @property
    def step_s(self) -> float:
        """Seconds of a step: as calibrated, or at the rate that was given."""
        return self._step(self.seconds) if self.tflops is None else self.step_flops / (self.tflops * 1e12)

    def _step(self, cost: Cost) -> float:
        """With cached gradients every micro-batch is computed twice forward (a third of all) and once backward."""
        at_once = min(self.config.optim.micro_batch or self.share, self.share)
        times = math.ceil(self.share / at_once)
        return (4 / 3 if times > 1 else 1.0) * (cost.of(self.share) + (times - 1) * cost.always)

    @property
    def wall_s(self) -> float:
        """Seconds of all steps, where reading keeps up."""
        return self.config.steps * self.step_s

    @property
    def read_bytes(self) -> float:
        """Of a step on one process; partners of pairs are read too."""
        sides = 1 if self.config.pairs.kind in ("views", "simulated") else 2
        return sides * float(sum(part.samples * part.stored_bytes for part in self.parts))

    @property
    def rows(self) -> list[dict[str, Any]]:
        """A row for each setting, ready for a DataFrame."""
        return [
            {
                "setting": each.name,
                **each.needs,
                "total": total(each.needs),
                "fits": each.fits,
                "micro_batch": each.micro_batch,
            }
            for each in self.settings
        ]

    def advice(self) -> list[str]:
        """What to change, in sentences; empty where nothing is to be."""
        first, found = self.settings[0], []
        if first.fits is False:
            remedies = [each for each in self.settings[1:] if each.fits]
            if remedies:
                found.append(f"it does not fit as configured; {remedies[0].name} does")
            elif any(each.micro_batch for each in self.settings):
                best = max(self.settings, key=lambda each: each.micro_batch or 0)
                found.append(f"it does not fit as configured; {best.name} optim.micro_batch={best.micro_batch} does")
            else:
                found.append(
                    "not even one sample at a time fits; take a smaller model.size, larger patches (model.patch_size), "
                    "smaller views.crop, fewer bands (data.bands), or more processes with parallel=fsdp2"
                )
        if self.read_s > self.step_s:
            found.append(
                f"reading takes {self.read_s:.3g} s of a step that computes {self.step_s:.3g} s, so the device would "
                "wait; raise data.threads, use faster storage, or cut smaller windows"
            )
        return found


def make_plan(
    config: PretrainConfig, processes: int = 1, memory: float | None = None, tflops: float | None = None,
    say: Callable[[str], None] = lambda _: None,
) -> Plan:  # fmt: skip
    """Try a few steps of a run and work out what all of it needs.

    Args:
        config: the run.
        processes: it will have, one a GPU.
        memory: of one GPU, bytes; default that of the one here, where there is one.
        tflops: 10^12 floating-point operations a second that one GPU sustains; default the speed of this device.
        say: told what is measured now.

    Raises:
        UsageError: the configuration does not fit the data or the number of processes.
    """
    config = setup.settled(config)
    with distributed.joined(config.device) as world:
        device = world.device
        if memory is None and device.type == "cuda":
            memory = float(torch.cuda.get_device_properties(device).total_memory)
        say("shards, model and a batch")
        trial = Trial(config, processes, device)
        parts = trial.parts()
        say("memory that samples take")
        plain = {p: trial.kept(p, False) for p in ("fp32", "bf16")}
        bare = {p: trial.kept(p, True) for p in ("fp32", "bf16")}
        say("operations and seconds of a sample")
        rows = trial.rows_bytes() * config.data.global_batch
        flops, seconds = trial.flops(), trial.seconds()
    model = Model.of(trial.modules, list(_beside(trial)))
    usable = None if memory is None else USABLE * (memory - CONTEXT)

    def setting(name: str, precision: str, checkpointing: bool, micro: int | None, strategy: str) -> Setting:
        kept = plain[precision]
        if checkpointing:
            kept = checkpointed(kept, bare[precision], model.depth)
        load, divided = Load(parts, kept, rows, micro), strategy == "fsdp2"
        needs = needed(model, load, processes, divided)
        if usable is None:
            return Setting(name, needs, None, None)
        most = largest_micro_batch(model, load, processes, divided, usable)
        return Setting(name, needs, most, total(needs) <= usable)

    optim, strategy = config.optim, config.parallel.strategy
    as_it_is = optim.precision, config.model.grad_checkpointing, optim.micro_batch, strategy
    settings = [setting("as configured", *as_it_is), *_others(setting, as_it_is, processes)]
    state = 4.0 * (model.held + 2 * model.trained)
    return Plan(
        config, processes, memory, _called(device), parts, sum(p.numel() for p in trial.encoder.parameters()),
        model.trained, settings, flops, seconds, tflops, trial.read_s, state,
        setup.doubts(config, trial.shards, trial.sampler),
    )  # fmt: skip


def _beside(trial: Trial) -> Iterator[nn.Module]:
    """Modules that objectives keep beside those that are trained, such as a teacher."""
    known = {id(module) for module in trial.modules.modules()}
    for objective in trial.objectives.values():
        for value in vars(objective).values():
            if isinstance(value, nn.Module) and id(value) not in known:
                yield value


def _others(
    setting: Callable[..., Setting], as_it_is: tuple[str, bool, int | None, str], processes: int
) -> list[Setting]:
    """Ways that need less, from the least trouble to the most."""
    precision, checkpointing, micro, strategy = as_it_is
    first = setting("", *as_it_is)
    found = []
    if first.fits is False and first.micro_batch:
        small = 2 ** int(math.log2(first.micro_batch))
        found.append(setting(f"optim.micro_batch={small}", precision, checkpointing, small, strategy))
    if precision == "fp32":
        found.append(setting("optim.precision=bf16", "bf16", checkpointing, micro, strategy))
    if not checkpointing:
        found.append(setting("model.grad_checkpointing=true", precision, True, micro, strategy))
    if processes > 1 and strategy == "ddp":
        found.append(setting("parallel=fsdp2", precision, checkpointing, micro, "fsdp2"))
    everything = "bf16", True, micro, "fsdp2" if processes > 1 else strategy
    if everything not in (as_it_is, (precision, checkpointing, micro, "fsdp2")):
        named = ["optim.precision=bf16", "model.grad_checkpointing=true"]
        named += ["parallel=fsdp2"] if processes > 1 else []
        found.append(setting(" ".join(named), *everything))
    return found


def _called(device: torch.device) -> str:
    if device.type == "cuda":
        return torch.cuda.get_device_name(device)
    return f"this CPU ({torch.get_num_threads()} threads)"


def read_memory(text: str) -> float:
    """Bytes of ``80GB``, ``24GiB``, ``512MB``; a number alone is GB.

    Raises:
        UsageError: something else.
    """
    match = re.fullmatch(r"\s*(\d+(?:\.\d+)?)\s*([A-Za-z]*)\s*", text)
    if match is None or match[2].upper() not in _UNITS or float(match[1]) <= 0:
        raise UsageError(f"{text!r} is no memory; give a number with GB, GiB or MB, such as 80GB")
    return float(match[1]) * _UNITS[match[2].upper()]
