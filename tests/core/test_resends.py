from dispatcher.core.job import Job
from dispatcher.core.resends import Resends
from tests.core.world import World, rules_of


def three(w: World) -> tuple[Job, Job, Job]:
    """Return two of one function and one of another."""
    return w.job("f"), w.job("f"), w.job("g")


def test_they_go_in_the_order_in_which_they_came():
    w, resends = World(rules_of()), Resends()
    jobs = three(w)
    for job in jobs:
        resends.add(job)
    went = []
    while (first := resends.first(w.now)) is not None:
        resends.remove(first)
        went.append(first)
    assert went == [*jobs]
    assert not resends
    assert not list(resends)


def test_those_of_a_shut_function_hold_nobody_up_and_go_last_once_it_is_open():
    w, resends = World(rules_of()), Resends()
    first, second, other = three(w)
    for job in (first, second, other):
        resends.add(job)
    shut = first.lane.function
    shut.paused = True
    assert resends.first(w.now) is other
    assert resends.first_shut() is first
    assert list(resends) == [other, first, second], "nobody is forgotten"
    shut.paused = False
    assert resends.first(w.now) is other, "it has not been told"
    resends.opened(shut)
    assert list(resends) == [other, first, second]
    assert resends.first_shut() is None


def test_one_that_stands_apart_can_be_taken_out():
    w, resends = World(rules_of()), Resends()
    first, second, _ = three(w)
    resends.add(first)
    resends.add(second)
    first.lane.function.paused = True
    assert resends.first(w.now) is None
    assert not resends
    resends.remove(first)
    assert resends.first_shut() is second
    resends.remove(second)
    assert resends.first_shut() is None
    resends.opened(first.lane.function)
    assert not list(resends)
