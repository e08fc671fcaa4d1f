import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from dispatcher.core.model import Denied, Failure, GateKind, Lost, NotSent, Throttled
from dispatcher.core.retry import (
    BUDGET_TOKENS,
    COST_FAILED,
    COST_THROTTLED,
    Budget,
    backoff_s,
    cost_of,
    failure_of,
    retry_after_s,
)
from dispatcher.core.rules import RetryRules

FAILURE = Failure("reset", "the connection was reset")
THROTTLED = Throttled(gate=GateKind.ACCOUNT, reason="Busy", message="later", status=503)
RULES = RetryRules(delay_base_s=0.5, delay_max_s=60.0)


@pytest.mark.parametrize(
    ("failures", "bound_s"),
    [(1, 0.5), (2, 1.0), (3, 2.0), (7, 32.0), (8, 60.0), (100, 60.0), (10**9, 60.0)],
)
def test_the_bound_doubles_up_to_the_longest(failures, bound_s):
    assert backoff_s(RULES, failures, lambda: 1.0) == bound_s
    assert backoff_s(RULES, failures, lambda: 0.5) == bound_s / 2
    assert backoff_s(RULES, failures, lambda: 0.0) == 0.0


def test_there_is_nothing_to_wait_for_before_the_first_failure():
    with pytest.raises(AssertionError):
        backoff_s(RULES, 0, lambda: 1.0)


def test_no_rules_overflow():
    rules = RetryRules(delay_base_s=1e300, delay_max_s=1e308)
    assert math.isfinite(backoff_s(rules, 10_000, lambda: 1.0))


@pytest.mark.parametrize(
    ("outcome", "cost", "waits_s", "failure"),
    [
        (THROTTLED, COST_THROTTLED, 0.0, Failure("throttled", "later", "Busy", 503)),
        (Denied(FAILURE), None, 0.0, FAILURE),
        (NotSent(FAILURE, retry_after_s=3.0), COST_FAILED, 3.0, FAILURE),
        (Lost(FAILURE, retry_after_s=1e9), COST_FAILED, 3600.0, FAILURE),
        (Lost(FAILURE, retry_after_s=-1.0), COST_FAILED, 0.0, FAILURE),
    ],
)
def test_what_a_retry_costs_and_how_long_it_waits(outcome, cost, waits_s, failure):
    assert cost_of(outcome) == cost
    assert retry_after_s(outcome) == waits_s
    assert failure_of(outcome) == failure


def test_a_budget_is_spent_faster_than_it_fills():
    budget = Budget()
    assert sum(budget.spend(COST_THROTTLED) for _ in range(200)) == 100
    assert budget.tokens == 0
    for _ in range(4):
        budget.reward()
    assert not budget.spend(COST_THROTTLED)
    budget.reward()
    assert budget.spend(COST_THROTTLED)


@given(st.lists(st.sampled_from([COST_FAILED, COST_THROTTLED, None]), max_size=200))
def test_a_budget_is_never_below_nothing_nor_above_full(steps):
    budget = Budget()
    for cost in steps:
        before = budget.tokens
        if cost is None:
            budget.reward()
        elif not budget.spend(cost):
            assert budget.tokens == before < cost
        assert 0 <= budget.tokens <= BUDGET_TOKENS
