"""The inside of a measured process: python -m segkit.benchmarking.child, told lines of JSON.

It is told what to build, then answers each "run" with the seconds of one run, and "end" with the
peak of its memory and with what else there is to say.
"""

from __future__ import annotations

import importlib
import importlib.util
import json
import os
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType
from typing import Any

from segkit.benchmarking.timing import timed
from segkit.core.errors import SegkitError

MB = 1e6


@dataclass(frozen=True)
class Candidate:
    """What is measured.

    Attributes:
        run: One run of it.
        facts: What there is to say of it besides, as plain data; asked for after the runs, so that
            it is in no time and in no peak.
        device: Where it computes.
    """

    run: Callable[[], object]
    facts: Callable[[], dict[str, Any]] = dict
    device: str = "cpu"


def main() -> None:
    """Answer the process that started this one."""
    with os.fdopen(os.dup(1), "w", encoding="utf-8") as answers:
        os.dup2(2, 1)  # what libraries print is no answer

        def answer(**values: Any) -> None:
            print(json.dumps(values), file=answers, flush=True)

        try:
            _serve(answer)
        except BaseException as error:
            answer(failed=_reason(error), for_good=isinstance(error, SegkitError))


def _reason(error: BaseException) -> str:
    """Why, in a line: of an error of our own all it says, of another how it begins."""
    lines = [line.strip(" -") for line in str(error).strip().splitlines()]
    if isinstance(error, SegkitError):
        return " ".join(lines)
    return ": ".join([type(error).__name__, *lines[:1]])


def _serve(answer: Callable[..., None]) -> None:
    request = json.loads(sys.stdin.readline())
    if request["plugins"]:
        from segkit.core import plugins

        plugins.load_named(request["plugins"])
    prepare = find(request["target"])
    imported = resident_bytes()
    candidate: Candidate = prepare(**request["arguments"])
    measure = timed(candidate.run, _waiting(candidate.device))
    was_reset = reset_peak()  # building a network is not running it
    answer(ready=True)
    for line in sys.stdin:
        if line.strip() == "run":
            answer(seconds=measure())
        else:
            peak = _peak(candidate.device, imported) if was_reset else None
            answer(peak_mb=peak, facts=candidate.facts())
            return


def find(target: str) -> Callable[..., Candidate]:
    """The function of a ``module:function`` or a ``path/to/file.py:function``."""
    place, _, function = target.rpartition(":")
    module = _from_file(Path(place)) if place.endswith(".py") else importlib.import_module(place)
    return getattr(module, function)


def _from_file(path: Path) -> ModuleType:
    spec = importlib.util.spec_from_file_location(path.stem, path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[path.stem] = module  # dataclasses look their module up
    spec.loader.exec_module(module)
    return module


def resident_bytes(peak: bool = False) -> int | None:
    """Main memory of this process, now or at its peak; None where the system does not tell.

    Not ``ru_maxrss``: that begins with the memory of the process that started this one.
    """
    key = "VmHWM:" if peak else "VmRSS:"
    try:
        lines = Path("/proc/self/status").read_text(encoding="ascii").splitlines()
    except OSError:  # no Linux
        return None
    return next((int(line.split()[1]) * 1024 for line in lines if line.startswith(key)), None)


def reset_peak() -> bool:
    """Let the peak begin here; False where the system does not do that."""
    try:
        Path("/proc/self/clear_refs").write_text("5", encoding="ascii")
    except OSError:
        return False
    return True


def _peak(device: str, imported: int | None) -> float | None:
    """MB: of a GPU what was allocated, of the main memory what is above that of the imports."""
    if device.startswith("cuda"):
        import torch

        return torch.cuda.max_memory_allocated() / MB
    highest = resident_bytes(peak=True)
    return None if highest is None or imported is None else (highest - imported) / MB


def _waiting(device: str) -> Callable[[], object]:
    """What returns when the device is done."""
    if not device.startswith(("cuda", "mps")):
        return lambda: None
    import torch

    return torch.cuda.synchronize if device.startswith("cuda") else torch.mps.synchronize


if __name__ == "__main__":
    # under its own name, so that the class that targets import is the one that is used here
    importlib.import_module("segkit.benchmarking.child").main()
