"""Processes that share a prediction: the first one waits for the living, not for the dead."""

from __future__ import annotations

import threading
import time

import pytest
from torch.distributed import HashStore

from segkit.core.errors import SegkitError
from segkit.predict import sharing
from segkit.predict.sharing import Share


@pytest.fixture
def store(monkeypatch):
    monkeypatch.setattr(sharing, "BEAT", 0.05)
    monkeypatch.setattr(sharing, "SILENCE", 0.4)
    return HashStore()


def test_the_first_process_waits_for_a_slow_one(store):
    slow = Share(1, 2, 1, store)

    def work():
        threading.Thread(target=slow.give_signs_of_life, daemon=True).start()
        time.sleep(1.2)
        slow.gather(["b"])

    threading.Thread(target=work, daemon=True).start()
    assert Share(0, 2, 0, store).gather(["a"]) == ["a", "b"]


def test_a_dead_process_is_noticed(store):
    with pytest.raises(SegkitError, match="process 1 has died without a message"):
        Share(0, 2, 0, store).gather([])
