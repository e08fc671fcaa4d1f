import pytest
from hypothesis import given
from hypothesis import strategies as st

from dispatcher.emulator import queues
from dispatcher.emulator.queues import Queue, QueueFull


def bodies(queue: Queue, now: float, count: int = 10) -> list[str]:
    return [message.body for message in queue.receive(now, count)]


def test_messages_hide_once_received_and_show_again():
    queue = Queue("q")
    queue.send("a", 0)
    assert bodies(queue, 0) == ["a"]
    assert bodies(queue, 29.9) == []
    assert queue.next_deadline() == 30
    assert bodies(queue, 30) == ["a"]


def test_a_delayed_message_comes_later_and_others_pass_it():
    queue = Queue("q")
    queue.send("late", 0, 10)
    queue.send("now", 0)
    assert bodies(queue, 0) == ["now"]
    assert queue.next_deadline() == 10
    assert bodies(queue, 10) == ["late"]


def test_deleted_messages_do_not_come_back():
    queue = Queue("q")
    queue.send("a", 0)
    [message] = queue.receive(0, 1)
    assert queue.delete(message.receipt)
    assert queue.delete(message.receipt)
    assert not queue.delete("nonsense")
    assert bodies(queue, 100) == []
    assert queue.next_deadline() is None
    assert queue.counts(100).deleted == 1


def test_an_old_receipt_deletes_too_and_changes_nothing_else():
    queue = Queue("q")
    queue.send("a", 0)
    old = queue.receive(0, 1)[0].receipt
    new = queue.receive(30, 1)[0].receipt
    assert not queue.hide(old, 31, 0)
    assert queue.hide(new, 31, 5)
    assert queue.next_deadline() == 36
    assert queue.delete(old)
    assert bodies(queue, 100) == []


def test_a_visibility_of_zero_returns_each_message_once_a_call():
    queue = Queue("q")
    queue.send("a", 0)
    for _ in range(3):
        assert [message.body for message in queue.receive(0, 10, 0)] == ["a"]


def test_hiding_twice_to_the_same_moment_shows_once():
    queue = Queue("q")
    queue.send("a", 0)
    [message] = queue.receive(0, 1)
    for _ in range(2):
        assert queue.hide(message.receipt, 0, 5)
    assert bodies(queue, 5) == ["a"]
    assert bodies(queue, 5) == []


def test_messages_expire():
    queue = Queue("q")
    queue.retention_s = 60
    queue.send("a", 0)
    assert bodies(queue, 60) == []
    assert queue.counts(60).visible == 0


def test_a_queue_is_bounded(monkeypatch):
    monkeypatch.setattr(queues, "MESSAGES_MAX", 2)
    queue = Queue("q")
    queue.send("a", 0)
    queue.send("b", 0)
    with pytest.raises(QueueFull):
        queue.send("c", 0)
    queue.purge()
    queue.send("c", 0)
    assert bodies(queue, 0) == ["c"]


def test_counts_tell_visible_in_flight_and_delayed():
    queue = Queue("q")
    for delay_s in (0, 0, 0, 60):
        queue.send("x", 0, delay_s)
    queue.receive(0, 1)
    counts = queue.counts(0)
    assert (counts.visible, counts.in_flight, counts.delayed) == (2, 1, 1)
    assert (counts.sent, counts.received) == (4, 1)


@given(
    st.lists(
        st.tuples(
            st.sampled_from(["send", "receive", "delete", "hide"]),
            st.sampled_from([0, 0, 1, 30]),
            st.integers(0, 3),
        ),
        max_size=40,
    )
)
def test_nothing_is_lost_and_nothing_is_in_two_hands(steps):
    queue, now, sent, deleted = Queue("q"), 0.0, 0, 0
    held: list[tuple[float, str]] = []
    for step, seconds, number in steps:
        now += seconds
        held = [(until, receipt) for until, receipt in held if until > now]
        if step == "send":
            queue.send(str(sent), now, seconds)
            sent += 1
        elif step == "receive":
            for message in queue.receive(now, number + 1, 10):
                assert all(receipt.split("/")[0] != message.id for _, receipt in held)
                held.append((now + 10, message.receipt))
        elif held and step == "delete":
            assert queue.delete(held.pop(number % len(held))[1])
            deleted += 1
        elif held and step == "hide":
            index = number % len(held)
            assert queue.hide(held[index][1], now, seconds)
            held[index] = (now + seconds, held[index][1])
            held = [(until, receipt) for until, receipt in held if until > now]
        counts = queue.counts(now)
        assert counts.visible + counts.in_flight + counts.delayed == sent - deleted
        assert counts.in_flight == len(held)
    left = queue.receive(now + 1000, sent + 1)
    assert len({message.id for message in left}) == len(left) == sent - deleted
