"""One problem for each error, with a type that does not change."""

import inspect
import json
from typing import Any

import pytest

from dispatcher import errors
from dispatcher.web import problems

WORDS = {
    errors.Rejected: ("rejected", 422),
    errors.Invalid: ("invalid", 422),
    problems.Malformed: ("malformed", 400),
    errors.PayloadTooLarge: ("payload_too_large", 413),
    errors.KeyReused: ("key_reused", 422),
    errors.QueueFull: ("queue_full", 429),
    errors.Draining: ("draining", 503),
    errors.DiskFull: ("disk_full", 507),
    errors.NotFound: ("not_found", 404),
    errors.NotPossible: ("not_possible", 409),
    errors.JournalError: ("journal_error", 503),
    errors.NotAllowed: ("not_allowed", 403),
    errors.JournalLocked: ("journal_error", 503),
    errors.JournalDamaged: ("journal_error", 503),
}


@pytest.mark.parametrize("kind", WORDS, ids=lambda kind: kind.__name__)
def test_each_error_has_a_word_and_a_status(kind):
    problem = problems.of(kind("why"))
    assert (problem.type, problem.status) == (problems.TYPE_PREFIX + WORDS[kind][0], WORDS[kind][1])
    assert problem.detail == "why"


def test_every_error_that_a_call_can_raise_has_a_word():
    kinds = {kind for _, kind in inspect.getmembers(errors, inspect.isclass)}
    # Two are for those who wait for a reply at the drop-in endpoints, one for those who get none.
    never = {errors.DispatcherError, errors.ConfigError, errors.WaitedTooLong, errors.Withdrawn}
    never.add(errors.Unreachable)
    assert {kind for kind in kinds if issubclass(kind, errors.DispatcherError)} - never <= set(
        WORDS
    )


def test_the_words_of_rejections_are_those_of_the_metrics():
    for kind, (word, _) in WORDS.items():
        if issubclass(kind, errors.Rejected):
            assert kind.reason == word


def test_statuses_with_a_time_to_wait_say_it_in_whole_seconds():
    for wait_s, said in ((None, "1"), (0.2, "1"), (1.0, "1"), (1.01, "2"), (30, "30")):
        answer = problems.refuse(errors.QueueFull("x", retry_after_s=wait_s)).reply()
        assert answer.headers["Retry-After"] == said
    assert "Retry-After" not in problems.refuse(errors.Invalid("x")).reply().headers


def body_of(refusal: problems.Refusal) -> dict[str, Any]:
    body = refusal.reply().body
    assert isinstance(body, bytes)
    read: dict[str, Any] = json.loads(body)
    return read


def test_what_quotes_the_request_is_bounded_and_always_writable():
    long = errors.Invalid("\udcff" + "x" * 10_000, pointer="/" + "y" * 10_000)
    answer = body_of(problems.refuse(long))
    assert answer["detail"].startswith("\\udcffxxx")
    assert len(answer["detail"]) < 600
    assert len(answer["pointer"]) < 600


def test_what_is_unknown_is_left_out():
    answer = body_of(problems.refusal(404, "x"))
    assert set(answer) == {"type", "title", "status", "detail"}
