import time

import pytest

from dispatcher.metrics import pace


@pytest.fixture
def pauses(monkeypatch):
    made: list[float] = []
    monkeypatch.setattr(time, "sleep", made.append)
    return made


@pytest.mark.parametrize("number", [0, 1, 99, 100, 101, 250])
def test_all_items_come_in_order_with_a_pause_after_each_hundred(pauses, number):
    assert list(pace.paced(range(number))) == list(range(number))
    assert pauses == [pace._PAUSE_S] * (number // 100)
