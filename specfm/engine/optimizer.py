"""AdamW with timm's parameter groups, and its state by parameter name (so it survives a change of group order)."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from specfm.engine.parts import global_norm, is_part
from specfm.errors import UsageError


def adamw(
    modules: nn.ModuleDict,
    lr: float,
    weight_decay: float,
    betas: Sequence[float],
    device: torch.device,
    lr_share: Callable[[str], float] | None = None,
) -> torch.optim.AdamW:
    """AdamW; biases, norms and other one-dimensional parameters are not decayed (timm's rule).

    Args:
        modules: Everything that is trained, by name.
        lr: First learning rate; the loop sets it anew at each step.
        weight_decay: Decoupled decay of matrices.
        betas: Averaging of gradient and squared gradient.
        device: A CUDA device uses the fused kernel.
        lr_share: Share of the learning rate by parameter name (layer-wise decay); :func:`set_lr` keeps to it.
    """
    from timm.optim import param_groups_weight_decay

    skip: set[str] = set()
    for prefix, module in modules.items():
        listed: Any = getattr(module, "no_weight_decay", None)
        skip |= {f"{prefix}.{name}" for name in (listed() if callable(listed) else ())}
    groups = param_groups_weight_decay(modules, weight_decay, no_weight_decay_list=tuple(sorted(skip)))
    if lr_share is not None:
        groups = _by_share(groups, {parameter: lr_share(name) for name, parameter in modules.named_parameters()}, lr)
    return torch.optim.AdamW(groups, lr=lr, betas=(betas[0], betas[1]), fused=device.type == "cuda")


def _by_share(groups: list[dict[str, Any]], shares: dict[nn.Parameter, float], lr: float) -> list[dict[str, Any]]:
    """Groups divided by share of the learning rate (timm's key ``lr_scale``)."""
    divided: dict[tuple[int, float], dict[str, Any]] = {}
    for index, group in enumerate(groups):
        for parameter in group["params"]:
            share = shares[parameter]
            key = (index, share)
            divided.setdefault(key, {**group, "params": [], "lr": lr * share, "lr_scale": share})
            divided[key]["params"].append(parameter)
    return list(divided.values())


def depth_of(name: str, depth: int) -> int:
    """0 for what precedes the blocks, 1 to ``depth`` for the blocks, ``depth`` + 1 for the last norm of an encoder."""
    parts = name.split(".")
    if parts[0] == "blocks":
        return int(parts[1]) + 1
    return depth + 1 if parts[0] == "norm" else 0


def share_of_lr(decay: float, depth: int, head: float = 1.0) -> Callable[[str], float]:
    """From a parameter's name to its share of the learning rate (layer-wise decay: Bao 2021, arXiv 2106.08254)."""

    def share(name: str) -> float:
        inner = name.removeprefix("model.")
        if not inner.startswith("encoder."):
            return head
        return decay ** (depth + 1 - depth_of(inner.removeprefix("encoder."), depth))

    return share


def set_lr(optimizer: torch.optim.Optimizer, lr: float) -> None:
    """Use ``lr``, times its share, for every group."""
    for group in optimizer.param_groups:
        group["lr"] = lr * group.get("lr_scale", 1.0)


def clip_gradients(parameters: Iterable[nn.Parameter], limit: float) -> Tensor:
    """Scale gradients to a global norm of at most ``limit`` (0: leave them); returns the norm before, a 0-d tensor."""
    clipped = [each for each in parameters if each.grad is not None]
    norm = global_norm(each.grad for each in clipped if each.grad is not None)
    for parts in (True, False):
        alike = [each for each in clipped if is_part(each) is parts]
        torch.nn.utils.clip_grads_with_norm_(alike, limit if limit > 0 else math.inf, norm)
    return norm


def optimizer_tensors(optimizer: torch.optim.Optimizer, modules: nn.ModuleDict) -> dict[str, Tensor]:
    """State of every parameter as ``optimizer/<parameter name>/<field>``."""
    tensors = {}
    for name, parameter in modules.named_parameters():
        for field, value in optimizer.state.get(parameter, {}).items():
            tensors[f"optimizer/{name}/{field}"] = torch.as_tensor(value)
    return tensors


def restore_optimizer(optimizer: torch.optim.Optimizer, modules: nn.ModuleDict, tensors: dict[str, Tensor]) -> None:
    """Put back what :func:`optimizer_tensors` gave.

    Raises:
        UsageError: the state is of other parameters.
    """
    parameters = dict(modules.named_parameters())
    found: dict[str, dict[str, Tensor]] = {}
    for key, value in tensors.items():
        if key.startswith("optimizer/"):
            name, _, field = key.removeprefix("optimizer/").rpartition("/")
            found.setdefault(name, {})[field] = value
    trained = {name for name, parameter in parameters.items() if parameter.requires_grad}
    if found and set(found) != trained:
        odd = sorted(set(found) ^ trained)[0]
        then, now = ("trained", "held") if odd in found else ("held", "trained")
        raise UsageError(
            f"{odd} was {then} before the checkpoint and is to be {now} now; resume with what config.yaml in the run "
            "folder says, or start a new run"
        )
    for name, state in found.items():
        parameter = parameters[name]
        optimizer.state[parameter] = {
            # AdamW keeps its step count on the CPU unless fused; moments live with the parameter.
            field: value.clone() if field == "step" and not _fused(optimizer) else value.to(parameter.device)
            for field, value in state.items()
        }


def replace_parameter(
    optimizer: torch.optim.Optimizer, before: nn.Parameter, after: nn.Parameter, change_KL: Tensor
) -> None:
    """Train ``after`` in place of ``before``, the second axis of which was mapped from K to L: ``before @ change_KL``.

    Averages of gradients are mapped as gradients are (by the pseudo-inverse), averages of their squares by its squares.
    An input that the old weights did not have starts from the mean of the others, so that its first steps are of the
    usual size.
    """
    for group in optimizer.param_groups:
        group["params"] = [after if each is before else each for each in group["params"]]
    state = optimizer.state.pop(before, None)
    if state is None:
        return
    back_KL = torch.linalg.pinv(change_KL.double().cpu()).T
    moved = {"exp_avg": back_KL, "exp_avg_sq": back_KL.square()}
    fresh: dict[str, Any] = {}
    for field, value in state.items():
        if field not in moved:
            fresh[field] = value
            continue
        mapped = torch.einsum("ok...,kl->ol...", value.double().cpu(), moved[field])
        if field == "exp_avg_sq":
            unknown_L = back_KL.abs().sum(0) < 1e-12
            mapped[:, unknown_L] = value.double().cpu().mean(1, keepdim=True)
        fresh[field] = mapped.to(value).contiguous()
    optimizer.state[after] = fresh


def _fused(optimizer: torch.optim.Optimizer) -> bool:
    return bool(optimizer.param_groups[0].get("fused"))
