import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from dispatcher.core.model import Completion
from dispatcher.trackers import sqs_inbox
from dispatcher.trackers.sqs_inbox import KEEP_S, Inbox
from tests.trackers.fake_fc import EPOCH, watched
from tests.trackers.fake_sqs import record


def news(inbox: Inbox) -> list[Completion]:
    """Take the news and settle it at once."""
    told = []
    while inbox.news:
        request_id, completion = inbox.news.popleft()
        told.append(completion)
        inbox.settle(request_id)
    return told


def of(number: int, attempt: int = 1) -> str:
    return record(watched(number, 0.0, attempt=attempt).request_id)


def test_a_message_is_deletable_only_once_its_end_is_in_the_journal():
    inbox = Inbox()
    inbox.watch(watched(1, 0.0))
    inbox.deliver(of(1), "receipt", 1.0)
    ((request_id, completion),) = inbox.news
    assert completion.id == "i0000000001"
    assert not inbox.deletable
    assert inbox.unsettled == 1
    inbox.settle(request_id)
    assert list(inbox.deletable) == ["receipt"]
    inbox.settle(request_id)
    assert list(inbox.deletable) == ["receipt"]


def test_a_record_may_come_before_its_run_is_watched():
    inbox = Inbox()
    inbox.deliver(of(1), "receipt", 1.0)
    assert news(inbox) == []
    inbox.expire(KEEP_S)
    inbox.watch(watched(1, 0.0))
    assert [end.id for end in news(inbox)] == ["i0000000001"]
    assert inbox.counts.early == 1
    assert list(inbox.deletable) == ["receipt"]


def test_repeats_are_told_once_and_deleted_all():
    inbox = Inbox()
    inbox.deliver(of(1), "early", 1.0)
    inbox.deliver(of(1), "early again", 1.0)
    inbox.watch(watched(1, 0.0))
    inbox.deliver(of(1), "unsettled", 1.0)
    assert len(news(inbox)) == 1
    inbox.deliver(of(1), "settled", 1.0)
    assert news(inbox) == []
    assert sorted(inbox.deletable) == ["early", "early again", "settled", "unsettled"]
    assert inbox.counts.repeated == 3
    assert inbox.counts.foreign == 0


def test_records_of_strangers_are_deleted_after_a_while():
    inbox = Inbox()
    inbox.deliver(of(1), "first", 1.0)
    inbox.deliver(of(2), "second", 2.0)
    assert inbox.next_deadline() == 1.0 + KEEP_S
    inbox.expire(1.0 + KEEP_S)
    assert list(inbox.deletable) == ["first"]
    assert inbox.next_deadline() == 2.0 + KEEP_S
    inbox.expire(1e9)
    assert list(inbox.deletable) == ["first", "second"]
    assert inbox.counts.foreign == 2
    assert inbox.next_deadline() is None


def test_garbage_is_deleted_at_once():
    inbox = Inbox()
    inbox.deliver("garbage", "receipt", 1.0)
    assert list(inbox.deletable) == ["receipt"]
    assert inbox.counts.unreadable == 1


def test_a_late_record_is_told_although_nobody_waits_any_more():
    inbox = Inbox()
    inbox.watch(watched(1, 0.0))
    inbox.forget("i0000000001")
    inbox.forget("i0000000001")
    inbox.deliver(of(1), "receipt", 1.0)
    assert [end.id for end in news(inbox)] == ["i0000000001"]
    assert inbox.counts.late == 1
    assert inbox._former == {}


def test_each_attempt_has_its_own_record():
    inbox = Inbox()
    inbox.watch(watched(1, 0.0))
    inbox.watch(watched(1, 5.0, attempt=2))
    inbox.deliver(of(1, attempt=1), "first", 6.0)
    inbox.deliver(of(1, attempt=2), "second", 7.0)
    assert [(end.id, end.attempt) for end in news(inbox)] == [
        ("i0000000001", 1),
        ("i0000000001", 2),
    ]
    assert inbox.awaited == 0


def test_late_news_of_one_attempt_leaves_the_next_one_as_it_is():
    inbox = Inbox()
    inbox.watch(watched(1, 0.0))
    inbox.watch(watched(1, 5.0, attempt=2))
    inbox.deliver(of(1, attempt=1), "first", 6.0)
    assert inbox.awaited == 1
    inbox.forget("i0000000001")
    assert inbox.awaited == 0


def test_a_run_without_a_request_id_waits_for_nothing():
    inbox = Inbox()
    for number in (1, 2):
        run = watched(number, 0.0)
        inbox.watch(
            type(run)(**{f: getattr(run, f) for f in run.__struct_fields__} | {"request_id": ""})
        )
    assert inbox.awaited == 0
    inbox.forget("i0000000001")


@pytest.mark.parametrize("bound", ["KEPT_MAX", "KEPT_CHARS_MAX"])
def test_records_for_which_there_is_no_room_stay_in_the_queue(monkeypatch, bound):
    monkeypatch.setattr(sqs_inbox, bound, 3 if bound == "KEPT_MAX" else 3 * len(of(1)))
    inbox = Inbox()
    for number in range(1, 6):
        inbox.deliver(of(number), f"receipt {number}", 1.0)
    assert inbox.counts.let_go == 2
    inbox.expire(1e9)
    assert len(inbox.deletable) == 3
    # The room is free again, and the queue gives the others another time.
    inbox.deliver(of(4), "receipt 4 again", 2.0)
    inbox.watch(watched(4, 0.0))
    assert len(news(inbox)) == 1
    # So it is where a record was wanted after all.
    for number in range(5, 8):
        inbox.deliver(of(number), "receipt", 3.0)
    assert inbox.counts.let_go == 2
    inbox.deliver(of(8), "receipt", 3.0)
    assert inbox.counts.let_go == 3


def test_what_is_remembered_is_bounded(monkeypatch):
    monkeypatch.setattr(sqs_inbox, "FORMER_MAX", 10)
    monkeypatch.setattr(sqs_inbox, "SETTLED_MAX", 10)
    monkeypatch.setattr(sqs_inbox, "FUNCTIONS_MAX", 10)
    inbox = Inbox()
    good_clock(inbox)
    for number in range(100):
        inbox.watch(watched(number, 0.0, function=f"f{number}"))
        if number % 2:
            inbox.deliver(record(f"r{number}-1", at=2.0), "receipt", 3.0)
        else:
            inbox.forget(f"i0000{number:06d}")
        news(inbox)
    assert len(inbox._former) == len(inbox._settled) == len(inbox._excess) == 10
    assert inbox.awaited == len(inbox._request_of) == inbox.unsettled == 0


def test_abandoned_are_those_that_are_neither_settled_nor_deletable():
    inbox = Inbox()
    inbox.watch(watched(1, 0.0))
    inbox.watch(watched(2, 0.0))
    inbox.deliver(of(1), "settled", 1.0)
    news(inbox)
    inbox.deliver(of(2), "unsettled", 1.0)
    inbox.deliver(of(3), "kept", 1.0)
    inbox.deliver("garbage", "garbage", 1.0)
    assert sorted(inbox.abandon()) == ["kept", "unsettled"]


# -- Times


def good_clock(inbox: Inbox) -> None:
    inbox.clock._low, inbox.clock._high = EPOCH - 0.01, EPOCH + 0.01


def test_times_are_estimated_from_the_end_alone():
    inbox = Inbox()
    good_clock(inbox)
    ends = []
    for number in range(200):
        sent_at = number * 1.0
        queued_s = 7.0 if number >= 150 else 0.0
        inbox.watch(watched(number, sent_at))
        inbox.deliver(record(f"r{number}-1", at=sent_at + 2.0 + queued_s), "receipt", sent_at + 20)
        ends += news(inbox)
    assert ends[0].start_delay_s is None
    assert ends[0].run_s == pytest.approx(2.0, abs=0.05)
    assert ends[100].start_delay_s == pytest.approx(0.0, abs=0.05)
    assert ends[199].start_delay_s == pytest.approx(7.0, abs=0.05)
    assert ends[199].run_s == pytest.approx(2.0, abs=0.05)


def test_there_are_no_times_without_a_good_clock_or_after_lambdas_own_retries():
    inbox = Inbox()
    inbox.watch(watched(1, 0.0))
    inbox.deliver(record("r1-1", at=2.0), "receipt", 3.0)
    good_clock(inbox)
    inbox.watch(watched(2, 0.0))
    inbox.deliver(record("r2-1", at=182.0, count=3), "receipt", 183.0)
    inbox.watch(watched(3, 0.0))
    inbox.deliver(record("r3-1"), "receipt", 3.0)
    assert [(end.run_s, end.start_delay_s) for end in news(inbox)] == [(None, None)] * 3


# -- Any order of events


class Promises(RuleBasedStateMachine):
    """Whatever comes in whatever order: each watched end is told once, no message is lost."""

    def __init__(self) -> None:
        super().__init__()
        self.inbox = Inbox()
        self.now = 0.0
        self.receipts = 0
        self.open: dict[str, int] = {}
        self.watched: dict[int, float] = {}
        self.told: list[int] = []
        self.unsettled: list[str] = []
        self.delivered: dict[int, float] = {}

    @rule(number=st.integers(1, 8))
    def watch(self, number):
        if number not in self.watched:
            self.watched[number] = self.now
            self.inbox.watch(watched(number, self.now))

    @rule(number=st.integers(1, 12))
    def deliver(self, number):
        self.receipts += 1
        receipt = f"{number}/{self.receipts}"
        self.open[receipt] = number
        self.delivered.setdefault(number, self.now)
        self.inbox.deliver(of(number), receipt, self.now)

    @rule(seconds=st.sampled_from([1.0, KEEP_S / 2, KEEP_S]))
    def pass_time(self, seconds):
        self.now += seconds
        self.inbox.expire(self.now)

    @rule()
    def report(self):
        while self.inbox.news:
            request_id, completion = self.inbox.news.popleft()
            self.told.append(int(completion.id[1:]))
            self.unsettled.append(request_id)

    @precondition(lambda self: self.unsettled)
    @rule(data=st.data())
    def settle(self, data):
        index = data.draw(st.integers(0, len(self.unsettled) - 1))
        self.inbox.settle(self.unsettled.pop(index))

    @invariant()
    def no_end_is_told_twice(self):
        assert len(self.told) == len(set(self.told))

    @invariant()
    def only_what_was_watched_is_told(self):
        assert set(self.told) <= set(self.watched)

    @invariant()
    def nothing_is_deleted_before_its_time(self):
        for receipt in self.inbox.deletable:
            number = self.open[receipt]
            settled = number in self.told and f"r{number}-1" not in self.unsettled
            unwanted = self.now >= self.delivered[number] + KEEP_S
            assert settled or unwanted

    def teardown(self):
        self.report()
        while self.unsettled:
            self.inbox.settle(self.unsettled.pop())
        self.inbox.expire(self.now + KEEP_S)
        assert sorted(self.inbox.deletable) == sorted(self.open)
        assert self.inbox.abandon() == []


Promises.TestCase.settings = settings(max_examples=100, stateful_step_count=40)
TestPromises = Promises.TestCase
