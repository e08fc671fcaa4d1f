"""How long to wait before a failed send is tried again, and how much retrying is too much."""

from collections.abc import Callable
from typing import Final, assert_never

from dispatcher.core.model import Denied, Failure, Lost, NotSent, Throttled
from dispatcher.core.rules import RetryRules

#: Outcomes after which a send is tried again.
NotTaken = Throttled | Denied | NotSent | Lost

#: Nothing is closed or put off for longer than this at a stretch, whatever the cloud asks for.
RETRY_AFTER_MAX_S: Final = 3600.0

#: Tokens of a full budget and what each kind of retry takes. The proportions are those of
#: the retry quota in botocore's standard mode: cheap where the cloud says no at once,
#: dearer where it makes us wait for nothing.
BUDGET_TOKENS: Final = 500.0
COST_THROTTLED: Final = 5.0
COST_FAILED: Final = 14.0
REWARD: Final = 1.0


def backoff_s(rules: RetryRules, failures: int, uniform: Callable[[], float]) -> float:
    """
    Return the seconds to wait after *failures* failed sends in a row (at least 1).

    Full jitter: anything from 0 up to a bound that doubles with each failure.
    """
    assert failures >= 1
    # The exponent is bounded first: 0.5 * 2.0**1100 would overflow.
    bound = min(rules.delay_max_s, rules.delay_base_s * 2.0 ** min(failures - 1, 64))
    return bound * uniform()


def retry_after_s(outcome: NotTaken) -> float:
    """Return the seconds that the cloud asks to wait at least, within bounds."""
    asked_s = None if isinstance(outcome, Denied) else outcome.retry_after_s
    return 0.0 if asked_s is None else min(max(0.0, asked_s), RETRY_AFTER_MAX_S)


def cost_of(outcome: NotTaken) -> float | None:
    """Return what a retry after *outcome* takes from the budget; None: it is none of its business."""
    match outcome:
        case Throttled():
            return COST_THROTTLED
        case NotSent() | Lost():
            return COST_FAILED
        case Denied():  # the circuit says when to go on
            return None
        case _:
            assert_never(outcome)


def failure_of(outcome: NotTaken) -> Failure:
    """Return what to say of a send that was not taken."""
    if isinstance(outcome, Throttled):
        return Failure("throttled", outcome.message, outcome.reason, outcome.status)
    return outcome.failure


class Budget:
    """
    What an account may spend on retries.

    Success refills it a little, retries drain it. An account whose budget is empty still
    retries, since nothing accepted may be lost, but each time only after the longest delay.
    """

    __slots__ = ("tokens",)

    def __init__(self) -> None:
        self.tokens = BUDGET_TOKENS

    def __repr__(self) -> str:
        return f"<Budget {self.tokens:g} of {BUDGET_TOKENS:g}>"

    def spend(self, cost: float) -> bool:
        """Take *cost* tokens; False, and nothing taken, where there are not so many."""
        assert cost > 0, self
        if cost > self.tokens:
            return False
        self.tokens -= cost
        return True

    def reward(self) -> None:
        """Give back a little after a success."""
        if self.tokens < BUDGET_TOKENS:
            self.tokens = min(BUDGET_TOKENS, self.tokens + REWARD)
