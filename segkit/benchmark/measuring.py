"""Time and peak memory of a network, measured in a process that does nothing else."""

from __future__ import annotations

import os
import platform
from collections.abc import Mapping, Sequence
from multiprocessing import get_context
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

from segkit.core.errors import SegkitError

KINDS = ("predict", "train")
"""What is measured for each network, in this order."""


def measure_in_process(job: Mapping[str, Any], timeout: float) -> dict[str, dict[str, Any]]:
    """Measure a network in a fresh process, so that its memory is its own.

    Args:
        job: The arguments of :func:`measure` without the kind.
        timeout: Seconds for each kind.

    Returns:
        The result of :func:`measure` for each kind, or ``{"failure": reason}``.
    """
    context = get_context("spawn")  # a fork would inherit our memory, and breaks CUDA
    ours, theirs = context.Pipe(duplex=False)
    process = context.Process(target=_answer, args=(theirs, dict(job)), daemon=True)
    process.start()
    theirs.close()  # or the end of the process would not end the pipe
    found: dict[str, dict[str, Any]] = {}
    failure = f"no result after {timeout:g} s"
    try:
        while len(found) < len(KINDS) and ours.poll(timeout):
            found[KINDS[len(found)]] = ours.recv()
    except EOFError:
        process.join()
        hint = ", probably out of memory" if process.exitcode == -9 else ""
        failure = f"the process ended with status {process.exitcode}{hint}"
    finally:
        process.kill()
        process.join()
        ours.close()
    return {kind: found.get(kind, {"failure": failure}) for kind in KINDS}


def _answer(pipe: Connection, job: dict[str, Any]) -> None:
    import segkit.benchmark.networks  # noqa: F401 - imports are not memory of the network

    imported = resident_bytes()
    for kind in KINDS:
        try:
            pipe.send(measure(kind, **job, imported=imported))
        except Exception as error:  # whatever fails becomes a row of the table
            text = " ".join(str(error).split())
            own = isinstance(error, SegkitError)
            pipe.send({"failure": text if own else f"{type(error).__name__}: {text[:200]}"})


def measure(
    kind: str,
    encoder: Mapping[str, Any],
    neck: Mapping[str, Any],
    side: int,
    *,
    batch: int,
    channels: int = 3,
    classes: int = 1,
    device: str = "cpu",
    precision: str = "float32",
    rounds: int,
    warm_up: int,
    threads: int | None = None,
    plugins: Sequence[str] = (),
    imported: int | None = None,
) -> dict[str, Any]:
    """Measure a network in this process: "predict", or a step of "train".

    Returns:
        ``parameters``, ``seconds`` (one for each run), ``peak_mb`` (memory allocated on a GPU,
        else main memory above the ``imported`` bytes) and, for "predict", ``gflops`` for one image.
    """
    import torch
    from torch.utils.benchmark import timer  # it waits for the device

    from segkit.benchmark.networks import build_network, prediction, training_step
    from segkit.core import plugins as loader
    from segkit.models.cost import gflops

    if threads is not None:
        torch.set_num_threads(threads)
    loader.load_named(list(plugins))
    torch.manual_seed(0)
    model = build_network(encoder, neck, channels, classes, side)
    found: dict[str, Any] = {"parameters": sum(p.numel() for p in model.parameters())}
    prepare = prediction if kind == "predict" else training_step
    run = prepare(model, batch, side, device, precision)
    was_reset = reset_peak(device)  # building a network is not running it
    seconds = []
    for _ in range(warm_up + rounds):
        begin = timer()
        run()
        seconds.append(timer() - begin)
    found["seconds"] = seconds[warm_up:]
    found["peak_mb"] = peak_mb(device, imported) if was_reset else None
    if kind == "predict":
        # of a new network: the copy that predicts computes convolutions in fewer operations
        plain = build_network(encoder, neck, channels, classes, side)
        found["gflops"] = gflops(plain, channels, (side, side))
    return found


def resident_bytes(peak: bool = False) -> int | None:
    """Main memory of this process, now or at its peak; None if the system does not tell.

    ``ru_maxrss`` is no substitute: it begins with the memory of the parent process.
    """
    key = "VmHWM:" if peak else "VmRSS:"
    try:
        lines = Path("/proc/self/status").read_text(encoding="ascii").splitlines()
    except OSError:  # not Linux
        return None
    return next((int(line.split()[1]) * 1024 for line in lines if line.startswith(key)), None)


def reset_peak(device: str = "cpu") -> bool:
    """Reset the peak memory; False if the system cannot do that."""
    if device.startswith("cuda"):
        import torch

        torch.cuda.reset_peak_memory_stats()
        return True
    try:
        Path("/proc/self/clear_refs").write_text("5", encoding="ascii")
    except OSError:
        return False
    return True


def peak_mb(device: str, imported: int | None) -> float | None:
    """Peak memory in MB: what a GPU allocated, or main memory above ``imported`` bytes."""
    if device.startswith("cuda"):
        import torch

        return torch.cuda.max_memory_allocated() / 1e6
    highest = resident_bytes(peak=True)
    return None if highest is None or imported is None else (highest - imported) / 1e6


def machine_facts(device: str = "cpu", threads: int | None = None) -> dict[str, Any]:
    """The processor, memory, device and versions that figures belong to."""
    import torch

    from segkit.checkpoint.reading import find_versions
    from segkit.core.memory import GB, main_memory

    facts: dict[str, Any] = {
        "processor": processor(),
        "cores": os.cpu_count(),
        "threads": threads or torch.get_num_threads(),
        "memory, GB": round(main_memory() / GB, 1),
        "system": platform.platform(),
        "device": device,
    }
    if device.startswith("cuda"):
        facts["device"] = f"{device}: {torch.cuda.get_device_name(device)}"
        facts["CUDA"] = torch.version.cuda
    return facts | {"versions": find_versions()}


def processor() -> str:
    """The name of the processor."""
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
    except OSError:  # not Linux
        lines = []
    names = (line.partition(":")[2].strip() for line in lines if line.startswith("model name"))
    return next(names, "") or platform.processor() or platform.machine()
