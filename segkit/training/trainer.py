"""The Lightning trainer of a run, and how a training starts and is stopped."""

from __future__ import annotations

import contextlib
import logging
import os
import signal
import sys
import threading
import warnings
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import lightning as L
import torch
from lightning.fabric.plugins.environments.lightning import LightningEnvironment
from lightning.fabric.plugins.environments.torchelastic import TorchElasticEnvironment
from lightning.pytorch.callbacks import EarlyStopping
from rich.console import Console

from segkit.cli.launch import INTERRUPTED
from segkit.config.schema import TrainConfig
from segkit.core.errors import SegkitError
from segkit.core.interrupts import Stopped
from segkit.core.machine import choose_precision, find_machine
from segkit.core.sharing import Share
from segkit.inference.runtimes.network import is_out_of_memory
from segkit.training import callbacks
from segkit.training.bottleneck import Bottleneck
from segkit.training.budget import Budget
from segkit.training.checkpoints import (
    CheckpointNotWrittenError,
    LossNotFiniteError,
    Resumption,
    WholeCheckpoints,
    make_checkpoints,
)
from segkit.training.datamodule import SegmentationData
from segkit.training.hardness import Hardness
from segkit.training.log_epochs import LogEpochs
from segkit.training.loggers.together import Loggers
from segkit.training.module import SegmentationModule
from segkit.training.requeue import requeue
from segkit.training.resume import last_checkpoint
from segkit.training.sharding import Sharded
from segkit.training.speedup import Speedup


def silence_libraries() -> None:
    """Hide messages that users do not need; real warnings stay."""
    for name in ("lightning.pytorch", "lightning.fabric"):
        logging.getLogger(name).setLevel(logging.WARNING)
    logging.getLogger("timm").setLevel(logging.ERROR)  # reports the classifier that we drop
    for noise in (
        ".*does not have many workers.*",  # data.num_workers decides
        ".*Checkpoint directory .* exists and is not empty.*",  # a resumed run
        ".*dataloader is not resumable.*",  # ours is, see NextDraws
        ".*in eval mode at the start of training.*",  # frozen stages
        ".*GPU available but not used.*",  # trainer.accelerator=cpu asks for that
        ".*isinstance.treespec, LeafSpec.*",  # Lightning's own, on new versions of torch
        ".*FSDP2-wrapped module .* returned a view.*",  # losses change no logits in place
    ):
        warnings.filterwarnings("ignore", noise)


def follow_launcher(settings: TrainConfig, share: Share) -> TrainConfig:
    """Set the devices and machines to those for which torchrun or srun has started processes.

    Raises:
        SegkitError: The settings name another number of them.
    """
    t = settings.trainer
    asked = find_machine(t.accelerator, t.devices, t.num_nodes).devices
    if share.count == 1:
        if t.num_nodes > 1 and "NODE_RANK" not in os.environ:
            raise SegkitError(
                f"trainer.num_nodes={t.num_nodes}: start the command with torchrun or srun on each"
                " machine."
            )
        return settings
    devices, rest = divmod(share.count, share.nodes)
    if rest:
        raise SegkitError(
            f"{share.count} processes were started on {share.nodes} machines: start equally many on"
            " each."
        )
    if asked not in (1, share.count):
        raise SegkitError(
            f"trainer.devices={t.devices} and trainer.num_nodes={t.num_nodes} are {asked}"
            f" processes, and {share.count} were started. Leave both out: torchrun or srun decides."
        )
    found = t.model_copy(update={"devices": devices, "num_nodes": share.nodes})
    return settings.model_copy(update={"trainer": found})


def make_trainer(
    settings: TrainConfig, folder: Path, names: Sequence[str], loggers: Loggers
) -> L.Trainer:
    """Create the Lightning trainer of a run with its callbacks, one of which tells the loggers.

    The names are those of the training samples, for messages.

    Raises:
        SegkitError: The accelerator, the devices or the precision are not available.
    """
    t = settings.trainer
    is_sharded, is_hard = t.strategy == "fsdp", settings.data.sampling == "hard"
    # what a compiled step would not do
    is_plain = t.recompute or is_sharded or is_hard or settings.teacher is not None
    history = callbacks.History(folder)
    listed: list[L.Callback] = [
        history,
        *([LogEpochs(loggers, history)] if loggers else []),
        Resumption(settings.seed, folder / "checkpoints", t.early_stopping),
        callbacks.StopWhenNotFinite(names),
        Bottleneck(),
        Speedup(False if is_plain else t.compile),
    ]
    listed += make_checkpoints(folder / "checkpoints", settings.monitor, settings.monitor_mode)
    if is_hard:
        listed.append(Hardness())
    if t.ema is not None:
        listed.append(callbacks.ExponentialAverage(t.ema))
    if t.early_stopping is not None:
        listed.append(
            EarlyStopping(
                settings.monitor,
                check_finite=False,  # precision is NaN while nothing is predicted
                check_on_train_epoch_end=False,  # not every epoch is validated
                patience=t.early_stopping,
                mode=settings.monitor_mode,
            )
        )
    if t.seconds is not None:
        listed.append(Budget(t.seconds, t.check_val_every_n_epoch))
    if t.progress_bar:
        listed.append(callbacks.EpochBar(leave=False))
    listed.append(callbacks.StopAfterStep())  # after the others have seen the step
    machine = find_machine(t.accelerator, t.devices, t.num_nodes)
    if machine.device == "cpu" and machine.devices > t.num_nodes * max(4, machine.cores):
        raise SegkitError(
            f"trainer.devices={t.devices}: on a CPU that is a process for each, and there are"
            f" {machine.cores} cores. Leave it at 1, which uses all of them."
        )
    precision = choose_precision(t.precision, t.accelerator)
    if machine.device == "cuda" and precision != "32-true":
        torch.set_float32_matmul_precision("high")
    deterministic = t.deterministic
    if deterministic == "auto":  # costs nothing on a CPU
        deterministic = not machine.has_gpu
    # named, as Lightning takes the variables of every Slurm job for those of srun
    from_outside = Share.join().count > 1
    environment = TorchElasticEnvironment() if from_outside else LightningEnvironment()
    arguments: dict[str, Any] = {
        "default_root_dir": folder,
        "max_epochs": t.epochs,
        "max_steps": t.max_steps,
        "accelerator": t.accelerator,
        "devices": t.devices,
        "strategy": Sharded(machine.devices) if is_sharded else t.strategy,
        "inference_mode": not is_sharded,  # its tensors cannot be sharded again
        "num_nodes": t.num_nodes,
        "sync_batchnorm": t.sync_batchnorm,
        "precision": precision,
        "accumulate_grad_batches": t.accumulate_grad_batches,
        "gradient_clip_val": t.gradient_clip_val,
        "check_val_every_n_epoch": t.check_val_every_n_epoch,
        "deterministic": deterministic,
        "callbacks": listed,
        "plugins": [WholeCheckpoints(), environment],
        "use_distributed_sampler": False,  # ours divide the draws, and repeat no image
        "logger": False,  # LogEpochs tells them
        "enable_progress_bar": t.progress_bar,
        "enable_model_summary": False,
        "num_sanity_val_steps": 0,
        "log_every_n_steps": 1,
    }
    # no operation here reads memory before writing it; torch has no types for this
    torch.utils.deterministic.fill_uninitialized_memory = False  # type: ignore[attr-defined]
    try:
        return L.Trainer(**arguments)
    except Exception as error:  # each accelerator has its own
        raise SegkitError(
            f"trainer: accelerator={t.accelerator}, devices={t.devices}, strategy={t.strategy},"
            f" precision={precision} is not available on this machine. {error}"
        ) from error


def _name_checkpoint(last: Path) -> str:
    """Name the checkpoint that a failed training has left, as a sentence."""
    held = next((path for path in (last, last.with_name("best.ckpt")) if path.is_file()), None)
    return f" The last good checkpoint is {held}." if held else ""


def fit(
    trainer: L.Trainer,
    module: SegmentationModule,
    data: SegmentationData,
    folder: Path,
    console: Console,
    resume: bool,
) -> None:
    """Train from the start or from the last checkpoint.

    A signal (Ctrl-C, SIGTERM, a closed terminal) ends the training after the current step: the
    checkpoint is named, the status is that of the signal.
    """
    last = last_checkpoint(folder)
    # Lightning declares the attribute nowhere
    held: list[L.Callback] = trainer.callbacks  # type: ignore[attr-defined]
    (stop,) = (c for c in held if isinstance(c, callbacks.StopAfterStep))
    console.print(data.cache_note)
    try:
        with stop.signals:
            trainer.fit(module, data, ckpt_path=str(last) if resume else None, weights_only=True)
    except LossNotFiniteError as error:
        _leave_message_to_first_process(trainer)
        raise SegkitError(f"{error}{_name_checkpoint(last)}") from error
    except SegkitError as error:
        # the error of a worker process has its trace as its text
        said = str(error).rpartition("segkit.core.errors.SegkitError: ")[2]
        if isinstance(error, CheckpointNotWrittenError) and last.is_file():
            raise SegkitError(
                f"{said} The checkpoint before it, {last}, is whole: make room and go on with"
                f" resume={folder}."
            ) from error
        raise SegkitError(f"{said}{_name_checkpoint(last)}") from error
    except (RuntimeError, MemoryError) as error:
        if is_out_of_memory(error):
            raise SegkitError(
                f"the memory is not enough for batches of data.batch_size={data.config.batch_size}"
                f" crops of data.crop_size={list(data.config.crop_size)}: make one of them smaller,"
                f" or give trainer.recompute=true. ({_first_line(error)}){_name_checkpoint(last)}"
            ) from error
        if callbacks.is_lost_connection(error):
            if threading.current_thread() is threading.main_thread():
                # torchrun sends it meanwhile, and Lightning would ask the dead process about it
                signal.signal(signal.SIGTERM, signal.SIG_IGN)
            raise SegkitError(
                f"another process of this training has ended or does not answer; see what it said"
                f" above. Go on with resume={folder}.{_name_checkpoint(last)}"
            ) from error
        if not resume or "loading state_dict" not in str(error):
            raise
        raise SegkitError(
            f"resume={folder}: {last} does not fit the network of this run, it belongs to"
            " another one. Put back the one that the run wrote."
        ) from error
    except SystemExit as ended:  # Lightning exits so after Ctrl-C
        if not trainer.interrupted:
            raise
        _leave_message_to_first_process(trainer)
        why = ended.__context__
        if not isinstance(why, Stopped) and stop.signals.number:  # before we took the signal back
            why = Stopped(stop.signals.number)
        with contextlib.suppress(OSError):  # the terminal may be closed
            if last.is_file():
                console.print(
                    f"stopped in epoch {trainer.current_epoch}. The weights are in {last}; to go"
                    f" on:\n  python -m segkit.train resume={folder}",
                )
                if isinstance(why, Stopped) and why.asks_for_requeue:
                    console.print(requeue())
            else:
                console.print("stopped before the first step: there is nothing to keep.")
        sys.exit(why.status if isinstance(why, Stopped) else INTERRUPTED)
    finally:
        data.close()


def _first_line(error: Exception) -> str:
    return str(error).strip().partition("\n")[0]


def _leave_message_to_first_process(trainer: L.Trainer) -> None:
    """End the other processes silently when all of them stop for the same reason.

    With status 0, as Lightning kills the first process when another one fails.
    """
    if not trainer.is_global_zero:
        sys.exit(0)
