from __future__ import annotations

import threading
import time
from concurrent.futures import CancelledError
from contextlib import suppress

import pytest

from segkit.inference.background import Background, map_ahead


@pytest.fixture(autouse=True)
def no_thread_is_left():
    yield
    assert not [t.name for t in threading.enumerate() if t.name.startswith("segkit")]


def fail() -> None:
    raise ValueError("in the thread")


def test_one_thread_keeps_the_order_and_the_end_waits_for_all():
    done = []
    with Background("segkit-test", limit=3) as background:
        for number in range(50):
            background.submit(lambda number=number: (time.sleep(0.0005), done.append(number)), 1)
    assert done == list(range(50))


@pytest.mark.parametrize("threads", [1, 3])
def test_submit_waits_while_too_many_bytes_are_held(threads):
    held, most, lock = 0, 0, threading.Lock()

    def work() -> None:
        nonlocal held
        time.sleep(0.001)
        with lock:
            held -= 10

    with Background("segkit-test", limit=25, threads=threads) as background:
        for _ in range(40):
            background.submit(work, 10)
            with lock:
                held += 10
                most = max(most, held)
    assert most <= 30  # below the limit one more may start


@pytest.mark.parametrize("times", [1, 1000])
def test_an_error_in_a_thread_is_raised(times):
    def submit() -> None:
        with Background("segkit-test", limit=1) as background:
            for _ in range(times):
                background.submit(fail, 1)

    with pytest.raises(ValueError, match="in the thread"):
        submit()


def test_ctrl_c_while_work_is_handed_over_does_not_wait_for_it(monkeypatch):
    def interrupt(*_: object) -> None:
        raise KeyboardInterrupt

    def submit() -> None:
        with Background("segkit-test", limit=3) as background:
            monkeypatch.setattr(background._pool, "submit", interrupt)
            background.submit(fail, 1)

    with pytest.raises(KeyboardInterrupt):
        submit()


def test_after_an_error_of_the_caller_waiting_work_is_dropped():
    done, go = [], threading.Event()
    background = Background("segkit-test", limit=100)

    def submit() -> None:
        with background:
            background.submit(lambda: go.wait(5), 1)
            for _ in range(20):
                background.submit(lambda: done.append(1), 1)
            threading.Timer(0.05, go.set).start()
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        submit()
    assert not done
    with pytest.raises(CancelledError):
        background.submit(lambda: None, 1)


@pytest.mark.parametrize("count", [0, 1, 2, 20])
@pytest.mark.parametrize("limit", [1, 4, 100])
def test_items_are_read_in_order_and_no_further_ahead_than_the_limit(count, limit):
    read = []

    def items():
        for number in range(count):
            assert threading.current_thread().name == "segkit-test_0"
            read.append(number)
            yield number

    taken = []
    with Background("segkit-test", limit) as background:
        for item in background.read_ahead(items(), lambda item: 1):
            taken.append(item)
            time.sleep(0.001)
            assert len(read) - len(taken) <= limit
    assert taken == list(range(count))


def test_an_error_comes_in_its_place_and_the_threads_go_on():
    def items():
        yield from range(3)
        fail()

    taken = []
    with Background("segkit-test", limit=100) as background:
        with pytest.raises(ValueError, match="in the thread"):
            taken.extend(background.read_ahead(items(), lambda item: 1))
        assert list(background.read_ahead(range(5), lambda item: 1)) == list(range(5))
    assert taken == [0, 1, 2]


def test_reading_ends_where_the_caller_stops():
    read = []

    def items():
        for number in range(100):
            read.append(number)
            yield number

    with Background("segkit-test", limit=2) as background:
        for item in background.read_ahead(items(), lambda item: 1):
            if item == 5:
                break
        assert list(background.read_ahead("ab", lambda item: 1)) == ["a", "b"]
    assert len(read) < 12


def test_an_error_of_the_caller_ends_reading():
    with suppress(KeyboardInterrupt), Background("segkit-test", limit=1) as background:
        for _ in background.read_ahead(iter(int, 1), lambda item: 1):
            raise KeyboardInterrupt


def test_results_come_in_the_order_of_their_items_and_few_wait():
    begun, taken = [], []

    def work(number):
        begun.append(number)
        time.sleep(0.002 * (number % 3))
        return -number

    for number, result in map_ahead(work, range(30), threads=4):
        taken.append(number)
        assert result == -number
        assert len(begun) <= len(taken) + 5
    assert taken == list(range(30))


def test_an_error_comes_at_its_turn_and_the_rest_is_dropped():
    begun = []

    def work(number):
        begun.append(number)
        return 1 / (number - 3)

    results = map_ahead(work, range(1000), threads=2)
    assert [next(results)[0] for _ in range(3)] == [0, 1, 2]
    with pytest.raises(ZeroDivisionError):
        next(results)
    assert len(begun) < 10
