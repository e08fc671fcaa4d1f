"""Which requests go wrong: rules with a probability, or for the next so many requests."""

import random
from collections import Counter
from collections.abc import Iterable

import msgspec

from dispatcher.emulator.settings import Fault


class Subject(msgspec.Struct, frozen=True, kw_only=True):
    """What a request is about, as far as rules can tell."""

    operation: str
    account: str | None = None
    function: str | None = None
    asynchronous: bool | None = None


class Faults:
    """The rules in force."""

    def __init__(self, rules: Iterable[Fault], rng: random.Random) -> None:
        self._rng = rng
        self.counts: Counter[str] = Counter()
        """Requests hit, by kind."""
        self.replace(rules)

    @property
    def rules(self) -> list[Fault]:
        """The rules, with `next` as it is now."""
        return [
            rule if left is None else msgspec.structs.replace(rule, next=left)
            for rule, left in zip(self._rules, self._left, strict=True)
        ]

    def replace(self, rules: Iterable[Fault]) -> None:
        """Put other rules in force."""
        self._rules = list(rules)
        self._left = [rule.next for rule in self._rules]

    def add(self, rule: Fault) -> None:
        """Put one more rule in force, after the others."""
        self._rules.append(rule)
        self._left.append(rule.next)

    def hit(self, subject: Subject) -> Fault | None:
        """Return the first rule that hits the request, and count it."""
        for index, rule in enumerate(self._rules):
            if not _matches(rule, subject):
                continue
            left = self._left[index]
            if left is None:
                if not (rule.probability > 0 and self._rng.random() < rule.probability):
                    continue
            elif left <= 0:
                continue
            else:
                self._left[index] = left - 1
            self.counts[rule.kind] += 1
            return rule
        return None


def _matches(rule: Fault, subject: Subject) -> bool:
    if rule.operation not in {"any", subject.operation}:
        return False
    if rule.account is not None and rule.account != subject.account:
        return False
    if rule.function is not None and rule.function != subject.function:
        return False
    if rule.invocation_type is None:
        return True
    return subject.asynchronous is (rule.invocation_type == "async")
