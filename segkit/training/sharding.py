"""Fully sharded training (FSDP2): each process keeps a share of the weights and of their state."""

from __future__ import annotations

import torch
from torch import distributed, nn
from torch.distributed.device_mesh import DeviceMesh
from torch.distributed.fsdp import FSDPModule, fully_shard, register_fsdp_forward_method

from segkit.models.segmenter import Segmenter

BLOCK = 1_000_000
"""Parameters from which a block of the encoder is gathered and dropped on its own."""


def shard(model: Segmenter, mesh: DeviceMesh) -> None:
    """Divide the weights among the processes; large blocks of the encoder are there one by one."""
    model.to(memory_format=torch.contiguous_format)  # others cannot be cut
    for holder in reversed(list(model.encoder.modules())):  # the inner ones first
        if isinstance(holder, nn.Sequential | nn.ModuleList):
            for block in holder:
                if sum(p.numel() for p in block.parameters()) >= BLOCK:
                    fully_shard(block, mesh=mesh)
    fully_shard(model, mesh=mesh)
    register_fsdp_forward_method(model, "all_logits")


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
