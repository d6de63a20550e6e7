"""How the processes of a run keep their weights together, as settings."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import Field, model_validator

from specfm.config import Strict


class ParallelConfig(Strict):
    """Where parameters are while several processes train; ``parallel: fsdp2`` stands for ``{strategy: fsdp2}``.

    The result is the same, up to the order of sums, and so are checkpoints: a run goes on with the other strategy.
    Activations are traded for computing by ``model.grad_checkpointing`` with either, and precision is
    ``optim.precision``.

    Attributes:
        strategy: ``ddp``: every process holds everything. ``fsdp2``: of the blocks of transformers, their gradients and
            their optimiser moments, each process holds a part (specfm/engine/sharded.py); with one process nothing is
            divided.
        reshard: of fsdp2: give a gathered block back after its forward pass and gather it again for the backward pass;
            false needs memory for all blocks and less traffic.
    """

    strategy: Literal["ddp", "fsdp2"] = "ddp"
    reshard: bool = True

    @model_validator(mode="before")
    @classmethod
    def _by_name(cls, values: Any) -> Any:
        return {"strategy": values} if isinstance(values, str) else values

    @model_validator(mode="after")
    def _acts(self) -> ParallelConfig:
        if not self.reshard and self.strategy != "fsdp2":
            raise ValueError("reshard is of fsdp2; set strategy: fsdp2, or leave it out")
        return self


class SyncConfig(Strict):
    """The way, and what it can be told; ``sync: ds_sync`` stands for ``sync: {kind: ds_sync}``.

    Attributes:
        kind: ``allreduce``: gradients are summed over all processes before every update. ``ds_sync``: every process
            makes its own update, then weights are averaged in the group of the step (specfm/engine/sync/averaging.py).
            ``local_sgd``: the same, over all processes every ``period`` steps. With these two, loss and figures in the
            record are those of rank 0's own samples, and optimiser moments are saved for every process: a run taken
            up by as many goes on exactly, by others it goes on and says that it differs.
        layout: of ds_sync: ``rows_columns`` of a grid of any N = g x s; ``shuffled``: a grid dealt anew every two
            steps, from the run's seed; ``hypercube``: pairs, for N a power of two.
        group_size: of ds_sync's rows; a divisor of the number of workers, default near its root.
        period: of local_sgd, steps.
        negatives: whose samples a loss couples (NT-Xent's negatives, VICReg's covariances): those of the ``group`` that
            averages after the step (local_sgd: each process's own), or of the whole ``world``, which costs a meeting
            of all processes in every step.
        ranks_per_node: of ds_sync: processes that are one worker, since they share a fast link; else as many as
            torchrun starts on a node. 1 makes every process a worker.
    """

    kind: Literal["allreduce", "ds_sync", "local_sgd"] = "allreduce"
    layout: Literal["rows_columns", "shuffled", "hypercube"] = "rows_columns"
    group_size: Annotated[int, Field(ge=2)] | None = None
    period: Annotated[int, Field(ge=1)] = 8
    negatives: Literal["group", "world"] = "group"
    ranks_per_node: Annotated[int, Field(ge=1)] | None = None

    @model_validator(mode="before")
    @classmethod
    def _by_name(cls, values: Any) -> Any:
        return {"kind": values} if isinstance(values, str) else values

    @model_validator(mode="after")
    def _acts(self) -> SyncConfig:
        # by value: a resolved configuration lists every key
        owners = {"layout": "ds_sync", "group_size": "ds_sync", "ranks_per_node": "ds_sync", "period": "local_sgd"}
        for key, owner in owners.items():
            if getattr(self, key) != type(self).model_fields[key].default and self.kind != owner:
                raise ValueError(f"{key} is of {owner}; set kind: {owner}, or leave it out")
        if self.kind == "allreduce" and self.negatives != "group":
            raise ValueError("negatives are always those of all processes with allreduce; leave it out")
        if self.layout == "hypercube" and self.group_size not in (None, 2):
            raise ValueError("the groups of a hypercube are pairs; leave group_size out, or take layout: rows_columns")
        return self
