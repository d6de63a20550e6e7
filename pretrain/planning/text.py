"""A plan in lines of text."""

from __future__ import annotations

from collections.abc import Sequence

from pretrain.planning.memory import total
from pretrain.planning.plan import Plan, Setting
from specfm.progress import words_of


def told(plan: Plan) -> list[str]:
    """The plan for who reads it: data, memory by setting, computing, time, reading, disk, and what to change."""
    config = plan.config
    many = f"{plan.processes} processes: {plan.share} each" if plan.processes > 1 else "one process"
    sensors = sorted({(part.domain, part.bands, part.tokens) for part in plan.parts})
    checkpoints = config.checkpoint.keep + 1
    return [
        f"{config.data.global_batch} samples a step on {many}; {config.steps} steps",
        *(f"  {name}: {bands} bands, {tokens} tokens a view" for name, bands, tokens in sensors),
        f"encoder: {plan.parameters / 1e6:.2f} million parameters; trained in all: {plan.trained / 1e6:.2f} million",
        "",
        *_memory(plan),
        "",
        *_time(plan),
        f"disk: {_size(plan.checkpoint_bytes)} a checkpoint, up to {checkpoints} of them (milestones besides)",
        *(f"warning: {each}" for each in plan.doubts),
        *(f"-> {each}" for each in plan.advice()),
    ]


def _memory(plan: Plan) -> list[str]:
    names = [*plan.settings[0].needs, "total"]
    width = max(len("memory of a process"), *(len(each.name) for each in plan.settings))

    def line(name: str, cells: Sequence[str], last: str) -> str:
        return "  ".join([f"{name:<{width}}", *(f"{cell:>11}" for cell in cells), last])

    lines = [line("memory of a process", names, "")]
    for each in plan.settings:
        sizes = [*each.needs.values(), total(each.needs)]
        lines.append(line(each.name, [_size(value) for value in sizes], _verdict(each, plan)))
    return [text.rstrip() for text in lines]


def _time(plan: Plan) -> list[str]:
    config = plan.config
    whole = plan.step_flops * plan.processes * config.steps
    at = f"as on {plan.device}" if plan.tflops is None else f"at {plan.tflops:g} TFLOP/s a process"
    rate = plan.read_bytes / plan.step_s
    return [
        f"computing: {_count(plan.step_flops)}FLOP a step and process, {_count(whole)}FLOP in all",
        f"time: {plan.step_s:.3g} s a step, {words_of(plan.wall_s)} for all, {at}; start, evaluations and waits for "
        "other processes come on top",
        f"reading: {_size(plan.read_bytes)} a step and process, {_size(rate)}/s, {_size(rate * plan.processes)}/s for "
        f"all; one process alone reads {_size(plan.read_bytes / plan.read_s)}/s here",
    ]


def _verdict(setting: Setting, plan: Plan) -> str:
    if setting.fits is None or plan.memory is None:
        return "(give --memory to compare)"
    if setting.fits:
        return f"fits {_size(plan.memory)}"
    at_most = f"{setting.micro_batch} samples" if setting.micro_batch else "not even one sample"
    return f"too much for {_size(plan.memory)}, in which {at_most} of {plan.share} can be computed at once"


def _size(value: float) -> str:
    return f"{_count(value)}B"


def _count(value: float) -> str:
    for unit, each in (("E", 1e18), ("P", 1e15), ("T", 1e12), ("G", 1e9), ("M", 1e6), ("k", 1e3)):
        if value >= each:
            return f"{value / each:.3g} {unit}"
    return f"{value:.0f} "
