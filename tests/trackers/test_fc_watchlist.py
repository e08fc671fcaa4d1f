"""The watchlist, played by hand; tests/trackers/test_fc_tasks.py plays whole clouds."""

import math
from typing import Any

import pytest

from dispatcher.core.model import Completion, Verdict
from dispatcher.trackers import fc_watchlist
from dispatcher.trackers.agenda import Agenda
from dispatcher.trackers.fc_groups import ListTasks, Run
from dispatcher.trackers.fc_replies import Task
from dispatcher.trackers.fc_watchlist import (
    DENIALS_MAX,
    GROUPS_MAX,
    KEPT_S,
    LAST_LOOK_S,
    LISTS_DENIED_S,
    PROBE_S,
    REGISTERED_S,
    RESULTS_WAITING_MAX,
    UNKNOWN_MAX_S,
    GetConfig,
    GetTask,
    Look,
    Tracking,
    Watchlist,
)
from tests.trackers.fake_fc import watched


def ended(task_id: str, status: str = "Succeeded", result: str | None = None) -> Task:
    return Task(task_id=task_id, status=status, duration_ms=1000.0, return_payload=result)


def running(task_id: str) -> Task:
    return Task(task_id=task_id, status="Running")


class Player:
    """Moves a watchlist from one request to the next."""

    def __init__(self) -> None:
        self.list = Watchlist()
        self.now = 0.0

    def watch(self, *numbers: int, **more: object) -> None:
        for number in numbers:
            self.list.watch(watched(number, self.now, **more), self.now)  # type: ignore[arg-type]

    def look(self, until: float = math.inf) -> Look:
        """Go to the next request and return it."""
        look = self.list.next_look(self.now)
        while look is None:
            deadline = self.list.next_deadline(self.now)
            assert deadline is not None, "nothing left to ask"
            assert deadline > self.now, "it spins"
            assert deadline <= until, deadline
            self.now = deadline
            look = self.list.next_look(self.now)
        return look

    def get(self) -> GetTask:
        look = self.look()
        assert isinstance(look, GetTask), look
        return look

    def listing(self) -> ListTasks:
        look = self.look()
        assert isinstance(look, ListTasks), look
        return look

    def probe(self) -> GetConfig:
        look = self.look()
        assert isinstance(look, GetConfig), look
        return look

    def is_silent_until(self, at: float) -> bool:
        assert self.list.next_look(self.now) is None
        deadline = self.list.next_deadline(self.now)
        return deadline is None or deadline >= at


def ids(news: list[Completion | Tracking]) -> list[str]:
    return [item.id for item in news if isinstance(item, Completion)]


def test_an_empty_list_asks_nothing():
    player = Player()
    assert player.list.next_look(0.0) is None
    assert player.list.next_deadline(0.0) is None


def test_a_task_is_looked_at_until_it_has_ended():
    player = Player()
    player.watch(1)
    for _ in range(5):
        look = player.get()
        assert look.run.watched.id == "i0000000001"
        assert player.list.shown(look, running("i0000000001"), player.now) == []
    (news,) = player.list.shown(player.get(), ended("i0000000001", "Failed"), player.now)
    assert isinstance(news, Completion)
    assert (news.id, news.verdict, news.attempt) == ("i0000000001", Verdict.FAILED, 1)
    assert len(player.list) == 0
    assert player.list.next_deadline(player.now) is None


def test_many_are_looked_at_together_and_those_not_shown_are_asked_for_singly():
    player = Player()
    player.watch(*range(10))
    look = player.listing()
    assert len(look.runs) == 10
    assert player.is_silent_until(math.inf)  # none of them is asked for twice
    page = [ended(f"i000000000{n}") for n in range(3)] + [running("i0000000003")]
    # Of the first ends the results are asked for, to learn whether there are any.
    assert player.list.listed(look, page, more=False, now=player.now) == []
    singles = []
    for _ in range(9):
        single = player.get()
        task_id = single.run.watched.task_id
        singles.append(task_id)
        player.list.shown(single, ended(task_id), player.now)
    assert sorted(singles) == [f"i000000000{n}" for n in (0, 1, 2, 4, 5, 6, 7, 8, 9)]
    assert len(player.list) == 1


def test_what_a_page_cuts_off_is_listed_next():
    player = Player()
    player.watch(*range(30))
    look = player.listing()
    page = [running(f"i00000000{n:02d}") for n in range(10)]
    player.list.listed(look, page, more=True, now=player.now)
    rest = {run.watched.task_id for run in player.listing().runs}
    assert rest == {f"i00000000{n:02d}" for n in range(10, 30)}


def test_listings_that_do_not_show_running_tasks_are_given_up_for_a_while():
    player = Player()
    player.watch(*range(10))
    look = player.listing()
    player.list.listed(
        look, [running(run.watched.task_id) for run in look.runs], more=False, now=player.now
    )
    look = player.listing()
    player.list.listed(look, [], more=False, now=player.now)
    for _ in range(30):
        single = player.get()
        player.list.shown(single, running(single.run.watched.task_id), player.now)


def test_strangers_and_forgotten_tasks_in_a_page_are_passed_over():
    player = Player()
    player.watch(*range(5))
    look = player.listing()
    player.list.forget("i0000000001")
    page = [ended("i0000000001"), ended("stranger"), Task(status="Succeeded")]
    assert player.list.listed(look, page, more=False, now=player.now) == []
    assert len(player.list) == 4


def test_an_answer_for_an_earlier_attempt_does_not_end_the_next_one():
    player = Player()
    player.watch(1)
    look = player.get()
    player.watch(1, attempt=2)
    assert player.list.shown(look, ended("i0000000001"), player.now) == []
    (news,) = player.list.shown(player.get(), ended("i0000000001_2"), player.now)
    assert isinstance(news, Completion)
    assert news.attempt == 2


def test_forgetting_is_final_and_may_be_repeated():
    player = Player()
    player.watch(1)
    player.list.forget("i0000000001")
    player.list.forget("i0000000001")
    player.list.forget("never heard of")
    assert player.is_silent_until(math.inf)


def test_after_a_restart_what_was_sent_long_ago_is_looked_at_at_once():
    player = Player()
    player.now = 5.0
    player.list.watch(watched(1, -1000.0, expected_s=60.0), player.now)
    assert player.get().run.watched.id == "i0000000001"
    assert player.now == 5.0


def test_before_its_slot_is_taken_away_a_task_is_looked_at_once_more():
    player = Player()
    player.watch(1, deadline=500.0)
    times = []
    while player.now < 500.0:
        look = player.get()
        times.append(player.now)
        player.list.shown(look, running("i0000000001"), player.now)
    last = [at for at in times if 500.0 - LAST_LOOK_S <= at < 500.0]
    assert last[0] == 500.0 - LAST_LOOK_S
    assert len(last) >= 3
    # The true end may still come, so that it is looked at further on, but without haste.
    assert player.get().run.watched.id == "i0000000001"
    assert player.now > 530.0


def test_the_last_look_comes_before_others_that_are_due():
    player = Player()
    player.watch(*range(50))
    look = player.listing()
    player.list.listed(
        look, [running(run.watched.task_id) for run in look.runs], more=False, now=player.now
    )
    player.watch(99, function="other", deadline=player.now + 1.0)
    for _ in range(2):
        look_now = player.look()
        if isinstance(look_now, GetTask) and look_now.run.watched.function == "other":
            return
        assert isinstance(look_now, ListTasks)
        player.list.failed(look_now, player.now)
    raise AssertionError("the last look did not come")


def missing(news: Any) -> str | None:
    """Return what is said of a success without its result; None: nothing is missing."""
    assert isinstance(news, Completion)
    assert news.result is None
    return None if news.failure is None else news.failure.kind


class TestResults:
    def test_once_there_are_results_all_ends_wait_for_theirs(self):
        player = Player()
        player.watch(1)
        player.list.shown(player.get(), ended("i0000000001", result="r"), player.now)
        player.watch(*range(10, 15))
        look = player.listing()
        page = [ended(run.watched.task_id) for run in look.runs]
        assert player.list.listed(look, page, more=False, now=player.now) == []
        results = []
        for _ in range(5):
            single = player.get()
            task_id = single.run.watched.task_id
            (news,) = player.list.shown(single, ended(task_id, result=task_id), player.now)
            assert isinstance(news, Completion)
            results.append(news.result)
        assert sorted(filter(None, results)) == [f"i00000000{n}".encode() for n in range(10, 15)]

    def test_a_result_is_asked_for_once_however_often_the_end_is_listed(self):
        player = Player()
        player.watch(1, 2, 3)
        look = player.listing()
        page = [ended(run.watched.task_id) for run in look.runs]
        player.list.listed(look, page, more=False, now=player.now)
        asked = [player.get() for _ in range(3)]
        assert player.list.listed(look, page, more=False, now=player.now) == []
        assert player.is_silent_until(math.inf)
        told = [
            player.list.shown(each, ended(each.run.watched.task_id), player.now) for each in asked
        ]
        assert [len(news) for news in told] == [1, 1, 1]

    def test_too_many_ends_are_told_without_waiting(self):
        player = Player()
        player.watch(1)
        player.list.shown(player.get(), ended("i0000000001", result="r"), player.now)
        player.watch(*range(10, 90))
        look = player.listing()
        page = [ended(run.watched.task_id) for run in look.runs]
        news = player.list.listed(look, page, more=False, now=player.now)
        assert len(news) == 80 - RESULTS_WAITING_MAX
        assert {missing(each) for each in news} == {"result_not_fetched"}
        rest = player.list.throttled(player.get(), None, player.now)
        assert [missing(each) for each in rest] == ["result_not_fetched"] * RESULTS_WAITING_MAX

    def test_who_was_asked_and_showed_no_result_has_none(self):
        player = Player()
        player.watch(1, 2)
        player.list.shown(player.get(), ended("i0000000001", result="r"), player.now)
        (news,) = player.list.shown(player.get(), ended("i0000000002"), player.now)
        assert missing(news) is None

    def test_where_no_task_has_a_result_none_is_missing(self):
        player = Player()
        for number in range(1, 30):
            player.watch(number)
            (news,) = player.list.shown(player.get(), ended(f"i{number:010}"), player.now)
            assert missing(news) is None
        player.watch(*range(100, 180))
        look = player.listing()
        page = [ended(run.watched.task_id) for run in look.runs]
        told = player.list.listed(look, page, more=False, now=player.now)
        assert [missing(each) for each in told] == [None] * len(look.runs)

    @pytest.mark.parametrize("trouble", ["missing", "denied", "failed", "throttled", "running"])
    def test_an_end_that_is_known_is_told_even_if_its_result_cannot_be_had(self, trouble):
        player = Player()
        player.watch(1, 2, 3)
        look = player.listing()
        page = [ended(run.watched.task_id) for run in look.runs]
        assert player.list.listed(look, page, more=False, now=player.now) == []
        single = player.get()
        match trouble:
            case "missing":
                news = player.list.missing(single, "404", player.now)
            case "denied":
                news = player.list.denied(single, "403", player.now)
            case "failed":
                news = player.list.failed(single, player.now)
            case "throttled":
                news = player.list.throttled(single, None, player.now)
            case _:
                shown = running(single.run.watched.task_id)
                news = player.list.shown(single, shown, player.now)
        # After an error all that wait are told: their slots must not wait for better times.
        expected = 3 if trouble in ("failed", "throttled") else 1
        assert len(ids(news)) == expected
        assert single.run.watched.id in ids(news)


class TestTaskMode:
    def test_a_task_that_is_not_registered_yet_is_asked_for_again(self):
        player = Player()
        player.watch(1)
        look = player.get()
        while player.now < REGISTERED_S - 1.0:
            assert player.list.missing(look, "404", player.now) == []
            look = player.get()
        news = player.list.shown(look, ended("i0000000001"), player.now)
        assert ids(news) == ["i0000000001"]

    def doubtful(self) -> tuple[Player, GetConfig]:
        player = Player()
        player.watch(1)
        while True:
            look = player.look()
            if isinstance(look, GetConfig):
                assert REGISTERED_S <= player.now < 2 * REGISTERED_S
                return player, look
            assert isinstance(look, GetTask)
            assert player.list.missing(look, "AsyncTaskNotFound", player.now) == []

    def test_task_mode_that_is_off_is_reported_and_nothing_more_is_asked(self):
        player, probe = self.doubtful()
        news = player.list.configured(probe, task_mode=False, why="off", now=player.now)
        assert news == [Tracking("f", None, "off")]
        assert player.is_silent_until(player.now + PROBE_S)
        player.watch(2)
        assert player.is_silent_until(player.now + PROBE_S)
        again = player.probe()
        news = player.list.configured(again, task_mode=False, why="off", now=player.now)
        assert news == [Tracking("f", None, "off")], "whoever forgot is told again"

    def test_once_it_is_on_again_the_latest_task_proves_it(self):
        player, probe = self.doubtful()
        player.list.configured(probe, task_mode=False, why="off", now=player.now)
        player.watch(2)
        probe = player.probe()
        player.watch(3)
        assert player.list.configured(probe, task_mode=True, why="", now=player.now) == []
        look = player.get()
        assert look.run.watched.id == "i0000000003"
        news = player.list.shown(look, running("i0000000003"), player.now)
        assert news == [Tracking("f", None, None)]
        # The others are looked at again, too.
        asked = {player.get().run.watched.id for _ in range(2)}
        assert asked == {"i0000000001", "i0000000002"}

    def found_again(self) -> Player:
        """Return one that has just found the latest of 61 tasks, which could not be found before."""
        player, probe = self.doubtful()
        unanswered = player.get()
        player.list.configured(probe, task_mode=False, why="off", now=player.now)
        assert player.list.missing(unanswered, "404", player.now) == []
        player.watch(*range(2, 62))
        probe = player.probe()
        player.list.configured(probe, task_mode=True, why="", now=player.now)
        news = player.list.shown(player.get(), running("i0000000061"), player.now)
        assert news == [Tracking("f", None, None)]
        return player

    def test_many_that_can_be_found_again_are_taken_up_a_few_at_a_time(self, monkeypatch):
        monkeypatch.setattr(fc_watchlist, "TAKEN_UP_AT_ONCE", 10)
        player = self.found_again()
        player.list.forget("i0000000031")
        puts = 0

        def put(run: Run, due: float) -> None:
            nonlocal puts
            puts += 1
            put_in(run, due)

        put_in = player.list._due.put
        monkeypatch.setattr(Agenda, "put", lambda agenda, run, due: put(run, due))
        asked: list[str] = []
        while player.list.next_deadline(player.now) == player.now:
            before = puts
            look = player.list.next_look(player.now)
            assert puts - before <= 10
            if isinstance(look, GetTask):
                asked.append(look.run.watched.id)
            elif isinstance(look, ListTasks):
                asked += [run.watched.id for run in look.runs]
        asked += [run.watched.id for run in player.list._due._entries]
        assert sorted(asked) == [f"i{n:010d}" for n in range(1, 62) if n != 31]
        latest = player.list._runs["i0000000061"]
        assert latest.due > player.now, "it has been looked at just now"

    def test_what_cannot_be_found_any_more_meanwhile_is_not_taken_up(self, monkeypatch):
        monkeypatch.setattr(fc_watchlist, "TAKEN_UP_AT_ONCE", 10)
        player = self.found_again()
        group = player.list._runs["i0000000061"].group
        player.list._fails(group, "off again", player.now)
        for _ in range(10):
            assert player.list.next_look(player.now) is None
        assert player.is_silent_until(group.probed_at + PROBE_S)

    def test_a_trial_that_finds_nothing_changes_nothing(self):
        player, probe = self.doubtful()
        player.list.configured(probe, task_mode=False, why="off", now=player.now)
        probe = player.probe()
        player.list.configured(probe, task_mode=True, why="", now=player.now)
        assert player.list.missing(player.get(), "404", player.now) == []
        assert player.is_silent_until(player.now + PROBE_S - 1.0)

    def test_task_mode_that_is_on_lets_a_lost_task_be_asked_for_rarely(self):
        player, probe = self.doubtful()
        assert player.list.configured(probe, task_mode=True, why="", now=player.now) == []
        begin, looks = player.now, 0
        while player.now < begin + 3600.0:
            look = player.look()
            if isinstance(look, GetConfig):
                news = player.list.configured(look, task_mode=True, why="", now=player.now)
            else:
                assert isinstance(look, GetTask)
                news = player.list.missing(look, "404", player.now)
            assert news == []
            looks += 1
        assert looks < 200

    def test_where_nobody_can_say_it_is_given_up_after_a_minute(self):
        player, probe = self.doubtful()
        news = player.list.denied(probe, "AccessDenied", player.now)
        while not news:
            look = player.look()
            if isinstance(look, GetConfig):
                news = player.list.denied(look, "AccessDenied", player.now)
            else:
                assert isinstance(look, GetTask)
                news = player.list.missing(look, "AsyncTaskNotFound", player.now)
        (item,) = news
        assert isinstance(item, Tracking)
        assert item.problem is not None
        assert "AsyncTaskNotFound" in item.problem
        assert UNKNOWN_MAX_S < player.now < 2 * UNKNOWN_MAX_S

    def test_after_seven_days_an_unknown_task_is_dropped(self):
        player = Player()
        player.now = KEPT_S + 10.0
        player.list.watch(watched(1, 0.0), player.now)
        assert player.list.missing(player.get(), "404", player.now) == []
        assert len(player.list) == 0


class TestDenials:
    def test_listings_that_are_not_allowed_are_replaced_by_single_requests(self):
        player = Player()
        player.watch(*range(5))
        assert player.list.denied(player.listing(), "no", player.now) == []
        begin = player.now
        for _ in range(20):
            look = player.get()
            player.list.shown(look, running(look.run.watched.task_id), player.now)
        while player.now < begin + LISTS_DENIED_S:
            look_any = player.look()
            if isinstance(look_any, ListTasks):
                assert player.now >= begin + LISTS_DENIED_S
                return
            assert isinstance(look_any, GetTask)
            player.list.shown(look_any, running(look_any.run.watched.task_id), player.now)

    def test_tasks_that_may_not_be_read_are_reported_and_tried_again(self):
        player = Player()
        player.watch(1)
        news: list[Completion | Tracking] = []
        for _ in range(DENIALS_MAX):
            assert news == []
            news = player.list.denied(player.get(), "AccessDenied: no", player.now)
        assert news == [Tracking("f", None, "AccessDenied: no")]
        # The configuration may say what it likes: only a task that is found helps.
        probe = player.probe()
        assert player.list.configured(probe, task_mode=True, why="", now=player.now) == []
        assert player.list.denied(player.get(), "AccessDenied: no", player.now) == []
        probe = player.probe()
        assert player.list.denied(probe, "AccessDenied: no", player.now) == []
        news = player.list.shown(player.get(), ended("i0000000001"), player.now)
        assert news[0] == Tracking("f", None, None)
        assert ids(news) == ["i0000000001"]


class TestTrouble:
    def test_after_an_error_everything_pauses_and_is_asked_again(self):
        player = Player()
        player.watch(*range(5))
        waits = []
        for _ in range(4):
            look, begin = player.listing(), player.now
            assert player.list.failed(look, player.now) == []
            deadline = player.list.next_deadline(player.now)
            assert deadline is not None
            waits.append(deadline - begin)
        assert waits == pytest.approx([0.5, 1.0, 2.0, 4.0])

    def test_a_throttle_slows_all_requests_down(self):
        player = Player()
        player.watch(1)
        player.watch(2, function="g")
        rate = player.list.pace.rate_per_s
        assert player.list.throttled(player.get(), 3.0, player.now) == []
        assert player.list.pace.rate_per_s == rate / 2
        begin = player.now
        player.get()
        assert player.now == begin + 3.0

    def test_a_forgotten_task_is_not_asked_for_again_after_an_error(self):
        player = Player()
        player.watch(1)
        look = player.get()
        player.list.forget("i0000000001")
        player.list.failed(look, player.now)
        assert player.is_silent_until(math.inf)


def test_what_was_learned_of_functions_is_bounded():
    player = Player()
    for number in range(GROUPS_MAX + 200):
        player.watch(number, function=f"f{number}")
        player.list.forget(f"i0000{number:06d}")
    assert len(player.list._groups) == GROUPS_MAX
