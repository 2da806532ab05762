"""Signals where nothing is lost."""

from __future__ import annotations

import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress

import pytest

from segkit.core.interrupts import Stopped, StopSignals, TimeIsOver, limit_time, raise_signals


@pytest.fixture
def terminal() -> Iterator[None]:
    """A process that is not run under nohup, even if the tests are."""
    before = signal.signal(signal.SIGHUP, signal.SIG_DFL)
    yield
    signal.signal(signal.SIGHUP, before)


@pytest.mark.usefixtures("terminal")
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP])
def test_the_first_signal_is_noted_and_the_second_raised(number) -> None:
    before = signal.getsignal(number)
    with StopSignals() as signals:
        signals.stop_if_asked()
        signal.raise_signal(number)
        assert signals.number == number
        with pytest.raises(Stopped) as stopped:
            signals.stop_if_asked()
        assert stopped.value.status == 128 + number
        with pytest.raises(KeyboardInterrupt):
            signal.raise_signal(number)
    assert signal.getsignal(number) is before


def test_signals_are_taken_back_from_a_library() -> None:
    with StopSignals() as signals:
        signal.signal(signal.SIGTERM, signal.SIG_IGN)
        signals.listen()
        signal.raise_signal(signal.SIGTERM)
        assert signals.number == signal.SIGTERM


def test_nohup_stays_in_force(monkeypatch) -> None:
    before = signal.signal(signal.SIGHUP, signal.SIG_IGN)
    try:
        with StopSignals() as signals:
            signal.raise_signal(signal.SIGHUP)
            assert not signals.number
    finally:
        signal.signal(signal.SIGHUP, before)


def test_sigterm_ends_a_command_as_ctrl_c_does() -> None:
    before = {number: signal.getsignal(number) for number in (signal.SIGTERM, signal.SIGHUP)}
    try:
        for number in before:
            signal.signal(number, signal.SIG_DFL)
        raise_signals()
        for number in before:
            with pytest.raises(KeyboardInterrupt):
                signal.raise_signal(number)
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def test_the_signals_of_the_main_thread_stay_its_own() -> None:
    before = signal.getsignal(signal.SIGINT)

    def enter() -> object:
        with StopSignals():
            return signal.getsignal(signal.SIGINT)

    with ThreadPoolExecutor(1) as pool:
        assert pool.submit(enter).result() is before


@pytest.mark.parametrize("name", ["SIGINT", "SIGTERM"])
def test_a_signal_while_the_process_ends_leaves_no_trace(name) -> None:
    """Whatever Python calls at its end, nothing catches what a handler would raise there."""
    code = (
        "import atexit, signal; from segkit.core import interrupts as i; i.raise_signals();"
        f"atexit.register(signal.raise_signal, signal.{name}); i.stop_raising()"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert (done.returncode, done.stderr) == (-getattr(signal, name), "")


def compute_for_ever() -> None:
    while True:
        with suppress(Exception):  # as libraries do
            sum(range(100))


def test_a_block_ends_when_its_time_is_over() -> None:
    began, before = time.monotonic(), signal.getsignal(signal.SIGALRM)
    with pytest.raises(TimeIsOver), limit_time(0.1):
        compute_for_ever()
    assert time.monotonic() - began < 5
    for seconds in (5.0, None):
        with limit_time(seconds):
            pass
    assert signal.getsignal(signal.SIGALRM) is before
    assert signal.getitimer(signal.ITIMER_REAL) == (0, 0)
