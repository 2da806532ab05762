"""Candidates in processes of their own that take turns: none has the memory of another."""

from __future__ import annotations

import os
import sys
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass, field, replace
from multiprocessing import get_context
from multiprocessing.connection import Connection
from typing import Any

from harness.timing import MeasurementError, alternate, make_timer
from segkit.benchmark.measuring import read_memory, read_peak_mb, reset_peak
from segkit.core.errors import SegkitError

TIMEOUT = 600.0
"""Seconds after which a build or a run is given up."""


@dataclass(frozen=True)
class Candidate:
    """Something to measure.

    Attributes:
        run: Runs it once.
        facts: Returns plain data about it. It is called after the runs, so that it is in no time
            and in no peak.
        device: Where it computes.
    """

    run: Callable[[], object]
    facts: Callable[[], dict[str, Any]] = dict
    device: str = "cpu"


@dataclass(frozen=True)
class Spec:
    """What a process builds.

    Attributes:
        build: A function at the top of a module that returns a :class:`Candidate`.
        arguments: Its arguments, as plain data.
        threads: Threads that compute; None: as the environment says, else all cores.
    """

    build: Callable[..., Candidate]
    arguments: dict[str, Any] = field(default_factory=dict)
    threads: int | None = None


@dataclass(frozen=True)
class Measured:
    """The result for a candidate.

    Attributes:
        seconds: One entry a round; empty if it failed.
        peak_mb: Its peak memory above that after the imports; None where it is not known.
        facts: What it says about itself.
        failure: Why there is no result; empty if it did not fail.
        for_good: Whether it would fail again on its own.
        alone: Whether it was measured apart from the others, because beside them it failed.
    """

    seconds: list[float] = field(default_factory=list)
    peak_mb: float | None = None
    facts: dict[str, Any] = field(default_factory=dict)
    failure: str = ""
    for_good: bool = False
    alone: bool = False


class MeasuredProcess:
    """A candidate in its own process; a context manager that ends the process.

    Args:
        spec: What it builds. It begins at once.
        timeout: Seconds that an answer may take.
    """

    def __init__(self, spec: Spec, timeout: float = TIMEOUT) -> None:
        self.timeout = timeout
        context = get_context("spawn")
        self._pipe, theirs = context.Pipe()
        self._process = context.Process(target=_serve, args=(theirs, spec), daemon=True)
        with _environment(spec.threads):
            self._process.start()
        theirs.close()  # or the end of the process would not end the pipe

    def __enter__(self) -> MeasuredProcess:
        return self

    def __exit__(self, *_: object) -> None:
        self._process.kill()
        self._process.join()
        self._pipe.close()

    def wait(self) -> None:
        """Return when it is built.

        Raises:
            MeasurementError: It could not be built.
        """
        self._receive()

    def seconds(self) -> float:
        """Run once.

        Raises:
            MeasurementError: The run failed or took too long.
        """
        return float(self._ask("run"))

    def finish(self) -> tuple[float | None, dict[str, Any]]:
        """The peak of its memory in MB, and its facts; the process ends.

        Raises:
            MeasurementError: It failed.
        """
        return self._ask("end")

    def _ask(self, request: str) -> Any:
        with suppress(OSError):  # it is dead, and _receive says why
            self._pipe.send(request)
        return self._receive()

    def _receive(self) -> Any:
        try:
            if not self._pipe.poll(self.timeout):
                self._process.kill()
                raise MeasurementError(f"no answer in {self.timeout:g} s", for_good=True)
            answer = self._pipe.recv()
        except (EOFError, ConnectionResetError) as error:
            self._process.join()
            status = self._process.exitcode
            hint = ", probably out of memory" if status == -9 else ""
            raise MeasurementError(f"the process ended with status {status}{hint}") from error
        if isinstance(answer, _Failure):
            raise MeasurementError(answer.reason, answer.for_good)
        return answer


@dataclass(frozen=True)
class _Failure:
    reason: str
    for_good: bool


def _serve(pipe: Connection, spec: Spec) -> None:
    """The other side: build, then answer each "run" with its seconds, and "end" with the rest."""
    try:
        imported = read_memory()
        candidate = spec.build(**spec.arguments)
        run_timed = make_timer(candidate.run, find_wait(candidate.device))
        was_reset = reset_peak(candidate.device)  # building a network is not running it
        pipe.send("ready")
        while pipe.recv() == "run":
            pipe.send(run_timed())
        peak = read_peak_mb(candidate.device, imported) if was_reset else None
        pipe.send((peak, candidate.facts()))
    except Exception as error:
        own = isinstance(error, SegkitError)
        lines = [line.strip(" -") for line in str(error).strip().splitlines()]
        reason = " ".join(lines) if own else ": ".join([type(error).__name__, *lines[:1]])
        pipe.send(_Failure(reason, own))


def find_wait(device: str) -> Callable[[], object]:
    """A function that returns when the device has finished its work."""
    if not device.startswith(("cuda", "mps")):
        return lambda: None
    import torch

    return torch.cuda.synchronize if device.startswith("cuda") else torch.mps.synchronize


@contextmanager
def _environment(threads: int | None) -> Iterator[None]:
    """The environment of a process that is to compute with so many threads."""
    names = ("OMP_NUM_THREADS", "MKL_NUM_THREADS") if threads is not None else ()
    before = {name: os.environ.get(name) for name in names}
    os.environ.update(dict.fromkeys(names, str(threads)))
    try:
        yield
    finally:
        for name, value in before.items():
            os.environ.pop(name) if value is None else os.environ.update({name: value})


def measure(
    specs: Mapping[str, Spec], rounds: int, warm_up: int = 1, timeout: float = TIMEOUT
) -> dict[str, Measured]:
    """Measure candidates in turns, each in its own process; all live at the same time.

    One that fails beside the others is tried again alone: the memory may have been too little for
    all of them together.

    Args:
        specs: The candidates by name.
        rounds: How often each is run, see :func:`alternate`.
        warm_up: Runs of each before that.
        timeout: Seconds after which a build or a run is given up.
    """
    found = _measure_together(specs, rounds, warm_up, timeout)
    for name, spec in specs.items() if len(specs) > 1 else ():
        if found[name].failure and not found[name].for_good:
            again = _measure_together({name: spec}, rounds, warm_up, timeout)[name]
            found[name] = again if again.failure else replace(again, alone=True)
    return found


def _measure_together(
    specs: Mapping[str, Spec], rounds: int, warm_up: int, timeout: float
) -> dict[str, Measured]:
    found: dict[str, Measured] = {}
    with ExitStack() as stack:
        started = {
            name: stack.enter_context(MeasuredProcess(spec, timeout))
            for name, spec in specs.items()
        }
        ready = {}
        for name, process in started.items():
            try:
                process.wait()
                ready[name] = process
            except MeasurementError as error:
                found[name] = Measured(failure=str(error), for_good=error.for_good)
        timings = alternate({name: p.seconds for name, p in ready.items()}, rounds, warm_up)
        for name, process in ready.items():
            try:
                if name in timings.failures:
                    raise MeasurementError(timings.failures[name])
                peak, facts = process.finish()
                found[name] = Measured(timings.seconds[name], peak, facts)
            except MeasurementError as error:
                found[name] = Measured(failure=str(error))
    return {name: found[name] for name in specs}


def run_script(main: Callable[[], None]) -> None:
    """Run a script's main function; an error of ours is one line instead of a traceback."""
    try:
        main()
    except SegkitError as error:
        sys.exit(f"error: {error}")
