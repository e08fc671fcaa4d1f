import pytest

from dispatcher.trackers.cloud_clock import CloudClock
from dispatcher.trackers.fc_groups import (
    FIRST_LOOK_MAX_S,
    LIST_MIN,
    PAGE,
    RESULTS_RETRIED,
    RESULTS_TRIED,
    RESULTS_TRUSTED,
    STEP_MAX_S,
    STEP_MIN_S,
    Group,
    Run,
)
from dispatcher.trackers.fc_replies import Task
from tests.trackers.fake_fc import watched

OFFSET = 1_800_000_000.0


def known_clock() -> CloudClock:
    clock = CloudClock()
    clock._low, clock._high = OFFSET - 0.5, OFFSET + 0.5
    return clock


def group_of(count: int, every_s: float = 0.01, due: float = 0.0) -> tuple[Group, list[Run]]:
    group = Group("f", None)
    runs = []
    for number in range(count):
        run = Run(group, watched(number, number * every_s), number)
        run.due = due
        group.add(run)
        runs.append(run)
    return group, runs


def learned(group: Group, run_s: float, count: int = 10) -> None:
    for _ in range(count):
        group.learn(Task(task_id="t", status="Succeeded", duration_ms=run_s * 1000), 0.05)


class TestWhenToLook:
    def test_without_any_past_a_guess_is_not_waited_for_long(self):
        group = Group("f", None)
        for expected_s, wait_s in [(None, STEP_MIN_S), (0.5, 0.4), (600.0, FIRST_LOOK_MAX_S)]:
            run = Run(group, watched(1, 50.0, expected_s=expected_s), 1)
            assert group.first_look(run) == 50.0 + wait_s

    def test_with_a_past_the_first_look_comes_at_the_first_end_to_be_expected(self):
        group = Group("f", None)
        learned(group, 30.0)
        run = Run(group, watched(1, 50.0, expected_s=1.0), 1)
        assert group.first_look(run) == 80.0

    @pytest.mark.parametrize(("age_s", "step_s"), [(0.0, 0.1), (10.0, 2.0), (10_000.0, 60.0)])
    def test_looks_get_rarer_with_the_age(self, age_s, step_s):
        group = Group("f", None)
        run = Run(group, watched(1, 100.0), 1)
        assert group.next_look(run, CloudClock(), 100.0 + age_s) == 100.0 + age_s + step_s
        assert STEP_MIN_S <= step_s <= STEP_MAX_S

    def test_a_run_that_began_late_is_not_expected_early(self):
        group = Group("f", None)
        learned(group, 30.0)
        run = Run(group, watched(1, 0.0), 1)
        run.on_instance, run.started_s = True, OFFSET + 20.0
        assert group.next_look(run, known_clock(), 31.0) == pytest.approx(50.0)
        assert group.next_look(run, known_clock(), 60.0) == pytest.approx(66.0)

    def test_what_has_not_begun_takes_its_time_afterwards(self):
        group = Group("f", None)
        learned(group, 30.0)
        run = Run(group, watched(1, 0.0), 1)
        assert group.next_look(run, known_clock(), 31.0) == pytest.approx(61.0)

    def test_tasks_that_were_stopped_or_dropped_teach_nothing(self):
        group = Group("f", None)
        for status in ("Stopped", "Expired", "Running"):
            for _ in range(10):
                group.learn(Task(task_id="t", status=status, duration_ms=1.0), 9.0)
        assert group.early.early_s() is None
        assert len(group.delays) == 0


class TestListings:
    def test_few_tasks_are_looked_at_singly(self):
        group, runs = group_of(LIST_MIN - 1)
        assert group.listing(runs[0], known_clock(), 1.0) is None
        group, runs = group_of(LIST_MIN)
        assert group.listing(runs[0], known_clock(), 1.0) is not None

    @pytest.mark.parametrize("at", [0, 3, 77, 249])
    def test_a_listing_holds_the_task_and_as_many_neighbours_as_fit(self, at):
        group, runs = group_of(250)
        listing = group.listing(runs[at], known_clock(), 5.0)
        assert listing is not None
        assert runs[at] in listing.runs
        assert len(listing.runs) == PAGE
        places = [runs.index(run) for run in listing.runs]
        assert places == list(range(places[0], places[0] + PAGE))

    def test_it_asks_for_the_ids_and_the_times_of_its_tasks(self):
        group, runs = group_of(50)
        listing = group.listing(runs[0], known_clock(), 5.0)
        assert listing is not None
        assert listing.prefix == "i00000000"
        assert listing.status is None
        # From the first send, by a clock that may be half a second slow ...
        assert listing.begin_ms is not None
        assert listing.begin_ms == pytest.approx((OFFSET - 0.5 - 0.1) * 1000, abs=2)
        # ... to the last, with room for a start delay that nobody knows yet.
        assert listing.end_ms is not None
        assert listing.end_ms == pytest.approx((OFFSET + 0.49 + 0.5 + 10.0) * 1000, abs=2)

    def test_it_ends_at_the_last_start_where_all_are_known(self):
        group, runs = group_of(50)
        for run in runs:
            run.on_instance, run.started_s = True, OFFSET + 2.0
        listing = group.listing(runs[0], known_clock(), 5.0)
        assert listing is not None
        assert listing.end_ms == (OFFSET + 2.0) * 1000 + 1

    def test_it_begins_at_the_first_start_if_that_was_before_the_send_as_we_know_it(self):
        group, runs = group_of(50)
        runs[20].on_instance, runs[20].started_s = True, OFFSET - 7.0
        listing = group.listing(runs[0], known_clock(), 5.0)
        assert listing is not None
        assert listing.begin_ms == (OFFSET - 7.0) * 1000 - 1

    def test_without_a_clock_it_asks_by_ids_only(self):
        group, runs = group_of(50)
        listing = group.listing(runs[0], CloudClock(), 5.0)
        assert listing is not None
        assert (listing.begin_ms, listing.end_ms) == (None, None)

    def test_those_not_due_soon_are_left_out(self):
        group, runs = group_of(30)
        for run in runs[::2]:
            run.due = 100.0
        runs[1].asked = True
        runs[3].alone = True
        listing = group.listing(runs[5], known_clock(), 5.0)
        assert listing is not None
        assert listing.runs == tuple(runs[5::2])

    def test_a_task_that_listings_do_not_show_is_asked_for_singly(self):
        group, runs = group_of(30)
        runs[0].alone = True
        assert group.listing(runs[0], known_clock(), 5.0) is None
        assert group.listing(runs[1], known_clock(), 5.0) is not None
        group.lists_from = 6.0
        assert group.listing(runs[1], known_clock(), 5.0) is None
        assert group.listing(runs[1], known_clock(), 6.0) is not None

    def test_pages_full_of_others_make_the_span_narrower_until_none_is_made(self):
        group, runs = group_of(200)
        sizes = []
        for _ in range(20):
            listing = group.listing(runs[0], known_clock(), 5.0)
            if listing is None:
                break
            sizes.append(len(listing.runs))
            group.listed(None, PAGE, 0, full=True)
            group.ended_share = 1.0  # so that listing those that run is no way out
        assert sizes == sorted(sizes, reverse=True)
        assert 3 < len(sizes) < 20

    def test_where_most_have_ended_those_that_run_are_listed(self):
        group, runs = group_of(200)
        for run in runs:
            run.on_instance = True
        for _ in range(20):
            group.listed(None, PAGE, 2, full=True)
        group.ended_share = 0.01
        listing = group.listing(runs[0], known_clock(), 5.0)
        assert listing is not None
        assert listing.status == "Running"
        assert len(listing.runs) == PAGE
        # Once many of them end between two looks, that is no longer worth it.
        group.ended_share = 0.9
        assert group.listing(runs[0], known_clock(), 5.0) is None

    def test_room_in_the_pages_widens_the_span_again(self):
        group, _ = group_of(1)
        for _ in range(20):
            group.listed(None, PAGE, 1, full=True)
        assert group.shares[None] < 0.05
        for _ in range(30):
            group.listed(None, 40, 1, full=False)
        assert group.shares[None] == 1.0


class TestResults:
    def test_they_are_asked_for_a_few_times_and_then_rarely(self):
        group = Group("f", None)
        asked = 0
        for _ in range(1000):
            if group.wants_result():
                asked += 1
                group.asked_result(found=False)
        assert asked == RESULTS_TRIED + 1000 // RESULTS_RETRIED

    def test_once_there_are_any_all_are_asked_for(self):
        group = Group("f", None)
        asked = 0
        for number in range(1000):
            if group.wants_result():
                asked += 1
                group.asked_result(found=number % (RESULTS_TRUSTED - 1) == 0)
        assert asked == 1000


def test_tasks_leave_from_any_place():
    group, runs = group_of(100)
    for run in runs[::3] + runs[1::3] + runs[2::3]:
        group.remove(run)
    assert group.alive == []
    assert group.by_task == {}


def test_a_task_id_that_was_taken_over_stays_with_its_new_owner():
    group, (first,) = group_of(1)
    second = Run(group, first.watched, 1)
    group.add(second)
    group.remove(first)
    assert group.by_task == {first.watched.task_id: second}
