"""Fully sharded training (FSDP2): each process keeps a share of the weights and of their state."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from lightning.pytorch.strategies import ModelParallelStrategy
from torch import distributed, nn
from torch.distributed.checkpoint.state_dict import (
    StateDictOptions,
    set_model_state_dict,
    set_optimizer_state_dict,
)
from torch.distributed.device_mesh import DeviceMesh
from torch.distributed.fsdp import FSDPModule, fully_shard, register_fsdp_forward_method
from torch.utils._pytree import tree_map_only

from segkit.models.segmenter import Segmenter

BLOCK = 1_000_000
"""Parameters from which a block of the encoder is gathered and dropped on its own."""


class Sharded(ModelParallelStrategy):
    """Lightning's strategy, with the checkpoints of every other training.

    Lightning's own numbers the weights of an optimizer's state otherwise than torch.

    Args:
        processes: Their number.
    """

    def __init__(self, processes: int) -> None:
        super().__init__(processes, 1, save_distributed_checkpoint=False)

    def load_checkpoint(
        self, checkpoint_path: str | Path, weights_only: bool | None = None
    ) -> dict[str, Any]:
        """Give each process its share of a checkpoint; return what else is in it."""
        stored: dict[str, Any] = torch.load(
            checkpoint_path, map_location="cpu", mmap=True, weights_only=weights_only
        )
        # what is sent from one process to the others must lie in memory in the same order
        stored = tree_map_only(torch.Tensor, torch.Tensor.contiguous, stored)
        assert self.model is not None
        options = StateDictOptions(full_state_dict=True, broadcast_from_rank0=True)
        set_model_state_dict(self.model, stored.pop("state_dict"), options=options)
        names = {parameter: name for name, parameter in self.model.named_parameters()}
        for optimizer, state in zip(self.optimizers, stored["optimizer_states"], strict=True):
            own = [names[p] for group in optimizer.param_groups for p in group["params"]]
            numbers = [number for group in state["param_groups"] for number in group["params"]]
            name = dict(zip(numbers, own, strict=True))
            named: dict[str, Any] = {
                "state": {name[number]: values for number, values in state["state"].items()},
                "param_groups": [
                    {**group, "params": [name[number] for number in group["params"]]}
                    for group in state["param_groups"]
                ],
            }
            set_optimizer_state_dict(self.model, optimizer, named, options=options)
        return stored


def shard(model: Segmenter, mesh: DeviceMesh) -> None:
    """Divide the weights among the processes; large blocks of the encoder are there one by one."""
    model.to(memory_format=torch.contiguous_format)  # others cannot be cut
    for holder in reversed(list(model.encoder.modules())):  # the inner ones first
        if isinstance(holder, nn.Sequential | nn.ModuleList):
            for block in holder:
                if sum(p.numel() for p in block.parameters()) >= BLOCK:
                    fully_shard(block, mesh=mesh)
    fully_shard(model, mesh=mesh)
    for method in ("all_logits", "find_masks"):
        register_fsdp_forward_method(model, method)


def begin_validation(model: nn.Module) -> None:
    """Keep the weights once they are gathered: each process predicts another number of tiles.

    The statistics of batch norms become those of the first process, which writes checkpoints.
    """
    if isinstance(model, FSDPModule):
        model.set_reshard_after_forward(False)
        for buffer in model.buffers():
            distributed.broadcast(buffer, 0)


def end_validation(model: nn.Module) -> None:
    """Share the weights again."""
    if isinstance(model, FSDPModule):
        model.set_reshard_after_forward(True)
