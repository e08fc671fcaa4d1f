import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from dispatcher.core.model import Verdict
from dispatcher.trackers.cloud_clock import CloudClock
from dispatcher.trackers.fc_replies import (
    MESSAGE_CHARS_MAX,
    Task,
    completion,
    read_config,
    read_page,
    read_task,
)
from tests.trackers.fake_fc import watched

WALL_MS = 1_800_000_000_000


def good_clock() -> CloudClock:
    """Return a clock that says that the cloud's is 1 800 000 000 s ahead."""
    clock = CloudClock()
    clock._low, clock._high = 1_800_000_000.0 - 0.01, 1_800_000_000.0 + 0.01
    return clock


def task(**members: object) -> Task:
    read = read_task(json.dumps({"taskId": "t", "status": "Succeeded"} | members).encode())
    assert read is not None
    return read


@pytest.mark.parametrize(
    ("status", "verdict", "on_instance"),
    [
        ("Enqueued", None, False),
        ("Dequeued", None, False),
        ("Processed", None, False),
        ("Running", None, True),
        ("Stopping", None, True),
        ("Retrying", None, False),
        ("SomethingNew", None, False),
        ("", None, False),
        (None, None, False),
        ("Succeeded", Verdict.SUCCEEDED, False),
        ("succeeded", Verdict.SUCCEEDED, False),
        ("Failed", Verdict.FAILED, False),
        ("Stopped", Verdict.STOPPED, False),
        ("Expired", Verdict.EXPIRED, False),
        ("Invalid", Verdict.FAILED, False),
    ],
)
def test_what_each_status_means(status, verdict, on_instance):
    shown = task(status=status)
    assert shown.verdict is verdict
    assert shown.on_instance is on_instance


def test_a_success_is_told_with_its_result_and_times():
    shown = task(
        startedTime=WALL_MS + 10_500,
        endTime=WALL_MS + 12_000,
        durationMs=1500,
        returnPayload='{"answer": "é"}',
    )
    end = completion(watched(7, 10.0, attempt=3), shown, good_clock())
    assert (end.id, end.attempt, end.verdict) == ("i0000000007", 3, Verdict.SUCCEEDED)
    assert end.result == '{"answer": "é"}'.encode()
    assert end.failure is None
    assert end.run_s == 1.5
    assert end.start_delay_s == pytest.approx(0.5, abs=1e-6)


@pytest.mark.parametrize(
    ("status", "kind"),
    [
        ("Failed", "function_error"),
        ("Invalid", "function_error"),
        ("Expired", "expired"),
        ("Stopped", "stopped"),
    ],
)
def test_any_other_end_is_told_with_its_reason(status, kind):
    end = completion(
        watched(1, 0.0), task(status=status, taskErrorMessage=" it broke "), good_clock()
    )
    assert end.failure is not None
    assert (end.failure.kind, end.failure.message, end.failure.reason) == (
        kind,
        "it broke",
        status,
    )
    silent = completion(watched(1, 0.0), task(status=status, taskErrorMessage=None), good_clock())
    assert silent.failure is not None
    assert silent.failure.message


def test_an_endless_message_is_cut():
    end = completion(
        watched(1, 0.0), task(status="Failed", taskErrorMessage="x" * 10**6), good_clock()
    )
    assert end.failure is not None
    assert len(end.failure.message) == MESSAGE_CHARS_MAX


class TestStartDelay:
    def test_the_tasks_own_events_are_believed_first(self):
        shown = task(
            startedTime=WALL_MS + 99_000,
            events=[
                {"status": "Enqueued", "timestamp": WALL_MS + 1000},
                {"status": "Dequeued", "timestamp": WALL_MS + 3000},
                {"status": "Running", "timestamp": WALL_MS + 3250},
                {"status": "Retrying", "timestamp": WALL_MS + 4000},
                {"status": "Running", "timestamp": WALL_MS + 5000},
            ],
        )
        # Of two runs the first counts, and no clock of ours is needed.
        assert completion(watched(1, 10.0), shown, CloudClock()).start_delay_s == 2.25

    def test_it_is_not_guessed_while_the_clocks_are_not_known_to_agree(self):
        shown = task(startedTime=WALL_MS + 11_000)
        assert completion(watched(1, 10.0), shown, CloudClock()).start_delay_s is None
        assert completion(watched(1, 10.0), shown, good_clock()).start_delay_s == pytest.approx(1.0)

    def test_the_start_of_a_retry_is_no_start_delay(self):
        shown = task(startedTime=WALL_MS + 70_000, alreadyRetriedTimes=1)
        assert completion(watched(1, 10.0), shown, good_clock()).start_delay_s is None

    def test_a_task_that_never_ran_has_none(self):
        shown = task(status="Expired", startedTime=0, durationMs=0)
        end = completion(watched(1, 10.0), shown, good_clock())
        assert end.start_delay_s is None

    def test_it_is_never_negative(self):
        shown = task(startedTime=WALL_MS + 9_990)
        assert completion(watched(1, 10.0), shown, good_clock()).start_delay_s == 0.0


def test_the_duration_is_taken_from_the_times_where_it_is_missing():
    assert task(startedTime=WALL_MS, endTime=WALL_MS + 2500).run_s == 2.5
    assert task(startedTime=WALL_MS, endTime=0).run_s is None
    assert task(status="Running", durationMs=17, startedTime=WALL_MS).run_s is None


class TestReading:
    def test_numbers_may_come_as_text_and_members_as_null_or_new(self):
        read = read_task(
            b'{"taskId":"t","status":"Running","startedTime":"1700000000000","endTime":null,'
            b'"durationMs":12.5,"events":null,"somethingNew":{"a":[1]}}'
        )
        assert read is not None
        assert read.started_time == 1_700_000_000_000
        assert read.started_s == 1_700_000_000.0

    def test_a_page_knows_whether_there_is_more(self):
        assert read_page(b'{"tasks":[{"taskId":"t"}],"nextToken":"x"}') == (
            [Task(task_id="t")],
            True,
        )
        assert read_page(b'{"tasks":[],"nextToken":""}') == ([], False)
        assert read_page(b'{"tasks":null}') == ([], False)
        assert read_page(b"{}") == ([], False)

    def test_a_configuration_without_the_flag_is_one_without_task_mode(self):
        assert read_config(b'{"asyncTask":true}') is True
        assert read_config(b'{"asyncTask":false}') is False
        assert read_config(b"{}") is False

    @pytest.mark.parametrize("read", [read_task, read_page, read_config])
    @pytest.mark.parametrize("body", [b"", b"<html>", b"[]", b"null", b"\xff", b'{"tasks":3'])
    def test_what_is_no_reply_is_none(self, read, body):
        assert read(body) is None

    @given(st.binary(max_size=50))
    def test_any_bytes_can_be_read(self, body):
        for read in (read_task, read_page, read_config):
            read(body)
