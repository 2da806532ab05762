"""Ctrl-C where nothing is lost."""

from __future__ import annotations

import signal
from concurrent.futures import ThreadPoolExecutor

import pytest

from segkit.core.interrupts import CtrlC


def test_the_first_ctrl_c_is_noted_and_the_second_raised() -> None:
    before = signal.getsignal(signal.SIGINT)
    with CtrlC() as ctrl_c:
        ctrl_c.stop_if_pressed()
        signal.raise_signal(signal.SIGINT)
        assert ctrl_c.is_pressed
        with pytest.raises(KeyboardInterrupt):
            ctrl_c.stop_if_pressed()
        with pytest.raises(KeyboardInterrupt):
            signal.raise_signal(signal.SIGINT)
    assert signal.getsignal(signal.SIGINT) is before


def test_the_signals_of_the_main_thread_stay_its_own() -> None:
    before = signal.getsignal(signal.SIGINT)

    def enter() -> object:
        with CtrlC():
            return signal.getsignal(signal.SIGINT)

    with ThreadPoolExecutor(1) as pool:
        assert pool.submit(enter).result() is before
