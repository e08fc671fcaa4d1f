"""An engine that keeps everything in a dict and sends nothing, with switches for what can go wrong."""

import asyncio
import re
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from msgspec.structs import replace

from dispatcher.config import ConfigError, Settings, adjusted, parse, pointer
from dispatcher.core.intake import Place, examine, target_of
from dispatcher.core.lifecycle import ENDED
from dispatcher.core.model import (
    CallType,
    Completion,
    GateKind,
    Invocation,
    Query,
    Record,
    State,
    Verdict,
)
from dispatcher.core.views import (
    Acceptance,
    AccountView,
    FunctionView,
    Queued,
    TenantView,
    View,
    WaitingFor,
)
from dispatcher.errors import Invalid, KeyReused, NotFound, NotPossible, Rejected

SETTINGS = """
[accounts.cn]
provider = "aliyun-fc"
account_id = "1031234567890123"
region = "cn-shanghai"
quota = 300
[accounts.cn.functions.resize]
[accounts.cn.tenants.research]
weight = 2

[accounts.strict]
provider = "aws-lambda"
account_id = "123456789012"
region = "eu-west-1"
quota = 10
unlisted = false
[accounts.strict.functions.listed]
duration_s = 1
"""
NOW_MS = 1_700_000_000_123
PAYLOAD_MAX_BYTES = 131_072


def settings() -> Settings:
    return parse(SETTINGS, base=Path("/"))


class FakeTicket:
    def __init__(self, engine: "FakeEngine", acceptance: Acceptance) -> None:
        self._engine = engine
        self._acceptance = acceptance

    async def accepted(self) -> Acceptance:
        await self._engine.journal_writes.wait()
        if self._engine.journal_error is not None:
            raise self._engine.journal_error
        self._engine.accepted.append(self._acceptance.id)
        return self._acceptance


class FakeEngine:
    def __init__(self) -> None:
        self.settings = settings()
        self.views: dict[str, View] = {}
        self.invocations: list[Invocation] = []
        self.commits: list[int] = []  #: how many each batch had
        self.accepted: list[str] = []
        self.shown: list[tuple[str | None, bool]] = []
        self.completions: list[Completion] = []
        self.switches: list[tuple[str, str, str | None]] = []
        self.refuses: Exception | None = None  #: raised by every call
        self.journal_error: Exception | None = None
        self.journal_writes = asyncio.Event()
        self.journal_writes.set()
        self.why_not_ready: str | None = None
        self.result: bytes | None = None
        self._keys: dict[tuple[str, str], tuple[str, Invocation]] = {}

    def enqueue(self, invocation: Invocation, *, source: str) -> FakeTicket:
        assert source == "http"
        if self.refuses is not None:
            raise self.refuses
        rules = self.settings.accounts.get(invocation.account)
        if rules is None:
            raise Invalid(f"there is no account {invocation.account!r}", pointer="/account")
        if invocation.callback_url is not None:
            raise Invalid("no host is allowed to be called back", pointer="/callback_url")
        place = Place(rules.provider, rules.account_id, rules.region)
        examine(invocation, target_of(invocation, rules, place, lambda _: PAYLOAD_MAX_BYTES))
        known = self._keys.get((invocation.account, invocation.idempotency_key or ""))
        if known is not None:
            if known[1] != invocation:
                raise KeyReused("belongs to another", pointer="/idempotency_key")
            return FakeTicket(self, Acceptance(known[0], State.WAITING, duplicate=True))
        invocation_id = f"i{len(self.views):06d}"
        if invocation.idempotency_key is not None:
            self._keys[invocation.account, invocation.idempotency_key] = invocation_id, invocation
        self.invocations.append(invocation)
        self.views[invocation_id] = View(
            record=Record(
                id=invocation_id,
                account=invocation.account,
                function=invocation.function,
                qualifier=invocation.qualifier,
                tenant=invocation.tenant,
                type=invocation.type or CallType.ASYNC,
                accepted_ms=NOW_MS + len(self.views),
            ),
            waiting_for=WaitingFor(gate=GateKind.ACCOUNT, name="cn", limit=300, in_use=300),
        )
        return FakeTicket(self, Acceptance(invocation_id, State.WAITING, duplicate=False))

    @contextmanager
    def batch(self, *, source: str) -> Iterator[Callable[[Invocation], FakeTicket | Rejected]]:
        taken: list[Invocation] = []

        def take(invocation: Invocation) -> FakeTicket | Rejected:
            taken.append(invocation)
            return self._one_of_many(invocation, source)

        yield take
        if taken:
            self.commits.append(len(taken))

    def _one_of_many(self, invocation: Invocation, source: str) -> FakeTicket | Rejected:
        try:
            return self.enqueue(invocation, source=source)
        except Rejected as error:
            return error

    async def get(self, invocation_id: str) -> View:
        if self.refuses is not None:
            raise self.refuses
        if invocation_id not in self.views:
            raise NotFound(f"there is no invocation {invocation_id!r}")
        return self.views[invocation_id]

    async def find(
        self, query: Query, *, after: str | None = None, limit: int = 100
    ) -> tuple[list[View], str | None]:
        if after is not None and not re.fullmatch("[0-9]{1,9}", after):
            raise Invalid("not a cursor", pointer="/after")
        views = [view for view in reversed(self.views.values()) if _fits(view.record, query)]
        begin = int(after or 0)
        end = begin + limit
        return views[begin:end], str(end) if end < len(views) else None

    async def cancel(self, invocation_id: str) -> State:
        view = await self.get(invocation_id)
        if view.record.state is State.RUNNING:
            return State.RUNNING
        if view.record.state is not State.WAITING:
            raise NotPossible(f"it has ended: {view.record.state}")
        self.put(replace(view.record, state=State.CANCELLED, ended_ms=NOW_MS))
        return State.CANCELLED

    async def complete(
        self, completion: Completion, *, token: str | None = None, is_known: bool = True
    ) -> None:
        self.shown.append((token, is_known))
        view = await self.get(completion.id)
        self.completions.append(completion)
        if view.record.state in ENDED:
            return
        succeeded = completion.verdict is Verdict.SUCCEEDED
        self.put(
            replace(
                view.record,
                state=State.SUCCEEDED if succeeded else State.DEAD,
                ended_ms=NOW_MS + 1,
                result=completion.result,
                failure=completion.failure,
            )
        )

    async def redrive(self, invocation_id: str) -> None:
        view = await self.get(invocation_id)
        if view.record.state is not State.DEAD:
            raise NotPossible(f"it is {view.record.state}")
        self.put(replace(view.record, state=State.WAITING))

    async def redrive_dead(self, query: Query) -> int:
        assert query.state is State.DEAD
        if query.account is not None:
            self.account(query.account)
        dead = [view.record for view in self.views.values() if _fits(view.record, query)]
        for record in dead:
            await self.redrive(record.id)
        return len(dead)

    def accounts(self) -> list[AccountView]:
        return [self.account(name) for name in self.settings.accounts]

    def account(self, name: str) -> AccountView:
        rules = self.settings.accounts.get(name)
        if rules is None:
            raise NotFound(f"there is no account {name!r}")
        return AccountView(
            name=name,
            provider=rules.provider,
            account_id=rules.account_id,
            region=rules.region,
            quota=rules.quota,
            limit=rules.quota,
            in_use=2,
            paused=False,
            queued=Queued(due=1, delayed=2),
            oldest_age_s=1.5,
            functions={"resize": FunctionView(limit=None, in_use=2, queued=1, paused=False)},
            tenants={
                "research": TenantView(weight=2.0, reserved=0, limit=None, in_use=0.5, queued=1)
            },
        )

    def pause(self, account: str, function: str | None = None) -> None:
        self.account(account)
        self.switches.append(("pause", account, function))

    def resume(self, account: str, function: str | None = None) -> None:
        self.account(account)
        self.switches.append(("resume", account, function))

    async def durable(self) -> None:
        pass

    def adjust(self, account: str, changes: Mapping[str, Any]) -> None:
        self.account(account)
        try:
            self.settings = adjusted(self.settings, account, changes)
        except ConfigError as error:
            raise Invalid(str(error), pointer=pointer(error.problems[0][0])) from error

    def not_ready(self) -> str | None:
        return self.why_not_ready

    def put(self, record: Record) -> None:
        """Keep an invocation as it is given."""
        self.views[record.id] = View(record=record)


def _fits(record: Record, query: Query) -> bool:
    return (
        query.state in (None, record.state)
        and query.account in (None, record.account)
        and query.function in (None, record.function)
        and query.tenant in (None, record.tenant)
    )
