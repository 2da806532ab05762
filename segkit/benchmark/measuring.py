"""Time and peak memory of a network, measured in a process that does nothing else."""

from __future__ import annotations

import json
import os
import platform
import subprocess
import sys
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from segkit.core.errors import SegkitError

KINDS = ("predict", "train")
"""What is measured for each network, in this order."""


def measure_in_process(job: Mapping[str, Any], timeout: float) -> list[dict[str, Any]]:
    """Measure a network in a fresh process, so that its memory is its own.

    Args:
        job: The arguments of :func:`measure` without the kind.
        timeout: Seconds after which the process is stopped.

    Returns:
        The result of :func:`measure` for each kind, or ``{"failure": reason}``.
    """
    command = [sys.executable, "-m", "segkit.benchmark.measuring"]
    given = json.dumps(job).encode()
    try:
        done = subprocess.run(
            command, input=given, stdout=subprocess.PIPE, timeout=timeout, check=False
        )
        output = done.stdout
        hint = ", probably out of memory" if done.returncode == -9 else ""
        failure = f"the process ended with status {done.returncode}{hint}"
    except subprocess.TimeoutExpired as error:
        output, failure = error.stdout or b"", f"no result after {timeout:g} s"
    found = [json.loads(line) for line in output.splitlines()]
    return found + [{"failure": failure}] * (len(KINDS) - len(found))


def main() -> None:
    """Measure the job that is given on the standard input; print a line of JSON for each kind."""
    job, output = json.load(sys.stdin), sys.stdout
    sys.stdout = sys.stderr  # only results are for the reader
    import segkit.benchmark.networks  # noqa: F401 - imports are not memory of the network

    imported = read_memory()
    for kind in KINDS:
        try:
            found = measure(kind, **job, imported=imported)
        except Exception as error:  # any failure becomes a row of the table
            text = " ".join(str(error).split())
            own = isinstance(error, SegkitError)
            found = {"failure": text if own else f"{type(error).__name__}: {text[:200]}"}
        print(json.dumps(found), file=output, flush=True)


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

    from segkit.benchmark.networks import build_network, prepare_prediction, prepare_training_step
    from segkit.core import plugins as loader
    from segkit.models.cost import gflops

    if threads is not None:
        torch.set_num_threads(threads)
    loader.load_named(list(plugins))
    torch.manual_seed(0)
    model = build_network(encoder, neck, channels, classes, side)
    parameters = sum(p.numel() for p in model.parameters())
    prepare = prepare_prediction if kind == "predict" else prepare_training_step
    run = prepare(model, batch, side, device, precision)
    was_reset = reset_peak(device)  # building a network is not running it
    seconds = []
    for _ in range(warm_up + rounds):
        begin = time.perf_counter()
        run()
        if device.startswith("cuda"):
            torch.cuda.synchronize()
        seconds.append(time.perf_counter() - begin)
    peak = read_peak_mb(device, imported) if was_reset else None
    found = {"parameters": parameters, "seconds": seconds[warm_up:], "peak_mb": peak}
    if kind == "predict":
        # of a new network: the copy that predicts computes convolutions in fewer operations
        plain = build_network(encoder, neck, channels, classes, side)
        found["gflops"] = gflops(plain, channels, (side, side))
    return found


def read_memory(key: str = "VmRSS") -> int | None:
    """Main memory of this process in bytes, at its peak for VmHWM; None if the system is silent.

    ``ru_maxrss`` is no substitute: it begins with the memory of the parent process.
    """
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


def read_peak_mb(device: str, imported: int | None) -> float | None:
    """Peak memory in MB: what a GPU allocated, or main memory above ``imported`` bytes."""
    if device.startswith("cuda"):
        import torch

        return torch.cuda.max_memory_allocated() / 1e6
    highest = read_memory("VmHWM")
    return None if highest is None or imported is None else (highest - imported) / 1e6


def describe_machine(device: str = "cpu", threads: int | None = None) -> dict[str, Any]:
    """The processor, memory, device and versions that figures belong to."""
    import torch

    from segkit.checkpoint.reading import find_versions
    from segkit.core.memory import GB, find_main_memory

    cpu_info = Path("/proc/cpuinfo")  # on Linux
    lines = cpu_info.read_text(encoding="utf-8").splitlines() if cpu_info.is_file() else []
    names = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    facts: dict[str, Any] = {
        "processor": names[0] if names else platform.processor() or platform.machine(),
        "cores": os.cpu_count(),
        "threads": threads or torch.get_num_threads(),
        "memory, GB": round(find_main_memory() / GB, 1),
        "system": platform.platform(),
        "device": device,
    }
    if device.startswith("cuda"):
        facts["device"] = f"{device}: {torch.cuda.get_device_name(device)}"
        facts["CUDA"] = torch.version.cuda
    return facts | {"versions": find_versions()}


if __name__ == "__main__":
    main()
