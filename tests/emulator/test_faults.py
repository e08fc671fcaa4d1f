import random

import pytest

from dispatcher.emulator.faults import Faults, Subject
from dispatcher.emulator.settings import Fault

EVENT = Subject(operation="invoke", account="a", function="f", asynchronous=True)


def test_the_next_so_many_requests_are_hit():
    faults = Faults([Fault(kind="hang", next=2)], random.Random(1))
    assert [faults.hit(EVENT) is not None for _ in range(4)] == [True, True, False, False]
    assert faults.counts == {"hang": 2}
    assert faults.rules[0].next == 0


def test_a_share_of_the_requests_is_hit():
    faults = Faults([Fault(kind="hang", probability=0.3)], random.Random(1))
    assert 230 < sum(faults.hit(EVENT) is not None for _ in range(1000)) < 370


def test_the_first_rule_that_hits_counts():
    rules = [Fault(kind="hang", next=0), Fault(kind="html", next=1), Fault(kind="empty", next=1)]
    faults = Faults(rules, random.Random(1))
    hits = [faults.hit(EVENT) for _ in range(2)]
    assert [hit and hit.kind for hit in hits] == ["html", "empty"]
    assert faults.hit(EVENT) is None


@pytest.mark.parametrize(
    ("fields", "hit"),
    [
        ({}, True),
        ({"account": "a", "function": "f", "invocation_type": "async"}, True),
        ({"account": "b"}, False),
        ({"function": "g"}, False),
        ({"invocation_type": "sync"}, False),
        ({"operation": "tasks"}, False),
        ({"operation": "any"}, True),
    ],
)
def test_rules_hit_only_what_they_name(fields, hit):
    faults = Faults([Fault(kind="hang", next=9, **fields)], random.Random(1))
    assert (faults.hit(EVENT) is not None) is hit
