from dispatcher.core.circuit import CIRCUIT_MAX_S, Circuit


def opened(now: float = 0.0) -> Circuit:
    circuit = Circuit()
    assert circuit.denied(circuit.sent(now), now)
    return circuit


def test_closed_until_something_is_denied():
    circuit = Circuit()
    assert not circuit.is_open
    assert circuit.until(0.0) is None
    assert not circuit.reached(circuit.sent(0.0))


def test_only_the_first_of_many_refusals_counts():
    circuit = Circuit()
    eras = [circuit.sent(0.0) for _ in range(100)]
    assert [circuit.denied(era, 0.0) for era in eras].count(True) == 1
    assert circuit.until(0.0) == 30.0


def test_each_refused_probe_doubles_the_time_up_to_a_bound():
    circuit, now, waits = opened(), 0.0, []
    for _ in range(6):
        until = circuit.until(now)
        assert until is not None
        waits.append(until - now)
        now = until
        assert circuit.until(now) is None
        assert circuit.denied(circuit.sent(now), now)
    assert waits == [30, 60, 120, 240, 300, 300]


def test_a_probe_is_alone():
    circuit = opened()
    circuit.sent(30.0)
    assert circuit.until(30.0) == 30.0 + CIRCUIT_MAX_S
    assert circuit.until(29.0 + CIRCUIT_MAX_S) is not None
    assert circuit.until(30.0 + CIRCUIT_MAX_S) is None


def test_a_probe_that_gets_through_closes_it_and_the_next_refusal_begins_anew():
    circuit = opened()
    assert circuit.reached(circuit.sent(30.0))
    assert not circuit.is_open
    assert circuit.denied(circuit.sent(31.0), 31.0)
    assert circuit.until(31.0) == 61.0


def test_a_probe_without_an_answer_makes_room_for_another():
    circuit = opened()
    circuit.unanswered(circuit.sent(30.0))
    assert circuit.until(30.0) is None


def test_what_was_sent_before_it_opened_says_nothing():
    circuit = Circuit()
    early, late = circuit.sent(0.0), circuit.sent(0.0)
    circuit.denied(early, 0.0)
    probe = circuit.sent(30.0)
    circuit.unanswered(late)
    assert circuit.until(30.0) is not None, "the probe is still out"
    assert not circuit.reached(late)
    assert not circuit.denied(late, 30.0)
    assert circuit.reached(probe)
    assert not circuit.denied(late, 31.0)
    assert not circuit.is_open
