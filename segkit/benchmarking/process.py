"""Candidates in processes of their own, which take turns: none has the memory of another."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
import threading
from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import Path
from types import TracebackType
from typing import Any

from segkit.benchmarking.timing import MeasurementError, alternate

TIMEOUT = 600.0
"""Seconds after which a build or a run is given up."""


@dataclass(frozen=True)
class Spec:
    """What a process is to build.

    Attributes:
        target: The function that gives a :class:`segkit.benchmarking.child.Candidate`, as
            ``module:function`` or ``file.py:function``.
        arguments: What it is given, as plain data.
        plugins: Modules to import before that.
        threads: Threads that compute; None: what the environment says, else all cores.
    """

    target: str
    arguments: dict[str, Any] = field(default_factory=dict)
    plugins: Sequence[str] = ()
    threads: int | None = None


@dataclass(frozen=True)
class Measured:
    """What was found of a candidate.

    Attributes:
        seconds: One entry a round; empty if it failed.
        peak_mb: The peak of its memory above that of the imports; None where it is not known.
        facts: What it said of itself.
        failure: Why there is nothing; empty if it did not fail.
        for_good: Whether it cannot even be built, whatever lives beside it.
        alone: Whether it was measured apart from the others, because beside them it failed.
    """

    seconds: list[float] = field(default_factory=list)
    peak_mb: float | None = None
    facts: dict[str, Any] = field(default_factory=dict)
    failure: str = ""
    for_good: bool = False
    alone: bool = False


class MeasuredProcess:
    """A candidate in a process of its own; a context manager, which ends it.

    Args:
        spec: What it is to build. It begins with that at once.
        timeout: Seconds that an answer may take.
    """

    def __init__(self, spec: Spec, timeout: float = TIMEOUT) -> None:
        self._timeout = timeout
        # open for as long as this object is, see close()
        self._errors = tempfile.TemporaryFile("w+", encoding="utf-8", errors="replace")  # noqa: SIM115
        environment = dict(os.environ)
        environment["PYTHONPATH"] = os.pathsep.join(path or str(Path.cwd()) for path in sys.path)
        if spec.threads is not None:
            for name in ("OMP_NUM_THREADS", "MKL_NUM_THREADS"):
                environment[name] = str(spec.threads)
        self._process = subprocess.Popen(
            [sys.executable, "-m", "segkit.benchmarking.child"],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=self._errors,
            text=True,
            encoding="utf-8",
            env=environment,
        )
        self._send(
            json.dumps(
                {
                    "target": spec.target,
                    "arguments": spec.arguments,
                    "plugins": list(spec.plugins),
                }
            )
        )

    def __enter__(self) -> MeasuredProcess:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()

    def wait(self) -> None:
        """Return when it is built.

        Raises:
            MeasurementError: It could not be.
        """
        self._answer()

    def seconds(self) -> float:
        """Run once.

        Raises:
            MeasurementError: It could not, or it took too long.
        """
        self._send("run")
        return float(self._answer()["seconds"])

    def finish(self) -> tuple[float | None, dict[str, Any]]:
        """The peak of its memory in MB, and its facts. It ends with that.

        Raises:
            MeasurementError: It could not.
        """
        self._send("end")
        answer = self._answer()
        return answer["peak_mb"], answer["facts"]

    def close(self) -> None:
        """End it, whatever it does."""
        self._process.kill()
        self._process.wait()
        for pipe in (self._process.stdin, self._process.stdout, self._errors):
            assert pipe is not None
            try:
                pipe.close()
            except BrokenPipeError:  # of what it did not read any more
                continue

    def _send(self, line: str) -> None:
        assert self._process.stdin is not None
        try:
            self._process.stdin.write(line + "\n")
            self._process.stdin.flush()
        except BrokenPipeError:
            pass  # it is dead; _answer says why

    def _answer(self) -> dict[str, Any]:
        assert self._process.stdout is not None
        late = threading.Event()

        def give_up() -> None:
            late.set()
            self._process.kill()

        timer = threading.Timer(self._timeout, give_up)
        timer.start()
        try:
            line = self._process.stdout.readline()
        finally:
            timer.cancel()
        if not line:
            raise MeasurementError(
                f"no answer in {self._timeout:g} s" if late.is_set() else self._why_it_ended()
            )
        answer: dict[str, Any] = json.loads(line)
        if "failed" in answer:
            raise MeasurementError(answer["failed"], answer["for_good"])
        return answer

    def _why_it_ended(self) -> str:
        status = self._process.wait()
        if status < 0:
            hint = ", probably for too little memory" if status == -9 else ""
            return f"the system ended the process (signal {-status}){hint}"
        self._errors.seek(0)
        said = self._errors.read().strip().splitlines()
        return f"the process ended with status {status}" + (f": {said[-1]}" if said else "")


def measure(
    specs: Mapping[str, Spec], rounds: int, warm_up: int = 1, timeout: float = TIMEOUT
) -> dict[str, Measured]:
    """Measure candidates in turns, each in a process of its own, all of which live at once.

    One that fails beside the others is tried again alone: it may be the memory of all together that
    was too little.

    Args:
        specs: What is measured, by name.
        rounds: How often each is run, see :func:`alternate`.
        warm_up: Runs of each before that.
        timeout: Seconds after which a build or a run is given up.
    """
    found = _together(specs, rounds, warm_up, timeout)
    for name, spec in specs.items() if len(specs) > 1 else ():
        if found[name].failure and not found[name].for_good:
            again = _together({name: spec}, rounds, warm_up, timeout)[name]
            found[name] = again if again.failure else Measured(**{**vars(again), "alone": True})
    return found


def _together(
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
