from typing import Any

import pytest

from dispatcher.engine.payloads import Payloads


class Holder:
    """What of a job matters here."""

    def __init__(self, payload: bytes | None) -> None:
        self.payload = payload


def holder(payload: bytes | None) -> Any:
    return Holder(payload)


def test_beyond_the_bound_payloads_stay_on_disk():
    payloads = Payloads(on_disk=True)
    jobs = [holder(b"1234") for _ in range(3)]
    for job in jobs:
        payloads.keep(job, 8)
    assert [job.payload for job in jobs] == [b"1234", b"1234", None]
    assert payloads.held_bytes == 8


def test_without_a_disk_all_are_held():
    payloads = Payloads(on_disk=False)
    job = holder(b"1234")
    payloads.keep(job, 1)
    payloads.forget(job)
    assert (job.payload, payloads.held_bytes) == (b"1234", 4)
    payloads.drop(job)
    assert (job.payload, payloads.held_bytes) == (None, 0)


@pytest.mark.parametrize("payload", [b"", b"1234", None])
def test_the_books_balance_however_often_it_is_let_go(payload):
    payloads = Payloads(on_disk=True)
    job = holder(payload)
    payloads.keep(job, 8)
    for _ in range(2):
        payloads.forget(job)
        payloads.drop(job)
    assert (job.payload, payloads.held_bytes) == (None, 0)
