"""
Function Compute's Invoke and tasks, so that code written for its SDKs needs another endpoint only.

All three versions of the API are served, and all is sent on through the newest. A task is an
invocation of ours, known from the moment at which its call was answered.
"""

import hashlib
import re
import uuid
from collections.abc import Iterator
from functools import partial
from typing import Final, NamedTuple

from aiohttp import hdrs
from msgspec.structs import replace

from dispatcher.config import AccountSettings
from dispatcher.core.canonical import ACS3
from dispatcher.core.intake import SECONDS_MAX
from dispatcher.core.model import CallType, Invocation, Provider, Record, Replied, State
from dispatcher.core.views import View
from dispatcher.errors import KeyReused, NotFound, NotPossible
from dispatcher.web import bodies, fc_tasks
from dispatcher.web.clients import Clients
from dispatcher.web.dropin import DropIn, Engine, Handler, Kind, Trouble, Visit, guarded
from dispatcher.web.fc_dialects import DIALECTS, FC3, Dialect, answer, refuser
from dispatcher.web.request import Request
from dispatcher.web.response import Body, Response
from dispatcher.web.routes import Route
from dispatcher.web.signatures import FC
from dispatcher.web.traces import trace_of_fc

ASYNC_MAX_BYTES: Final = 128 * 1024
SYNC_MAX_BYTES: Final = bodies.PAYLOAD_MAX_BYTES
KEY_SPACE: Final = "task"

_NAME: Final = re.compile(r"[A-Za-z0-9_$.-]{1,128}")
_QUALIFIER: Final = re.compile(r"[A-Za-z0-9$_.-]{1,128}")
_TASK_ID: Final = re.compile(r"[A-Za-z_][A-Za-z0-9_-]{0,127}")
_DIGITS: Final = re.compile(r"[0-9]{1,9}")


class Target(NamedTuple):
    """What a request is about."""

    account: str
    rules: AccountSettings
    function: str
    qualifier: str | None


class IngressFc:
    """Answers what comes to an endpoint of Function Compute."""

    def __init__(self, engine: Engine, clients: Clients) -> None:
        self._engine = engine
        self._desk = DropIn(engine, clients, Provider.ALIYUN_FC, frozenset({ACS3, FC}))

    def routes(self) -> tuple[Route, ...]:
        """Return all that is served, for the application."""
        return tuple(route for dialect in DIALECTS for route in self._routes(dialect))

    def _routes(self, dialect: Dialect) -> Iterator[Route]:
        function = dialect.function_path
        tasks = f"{function}/{dialect.tasks}"
        refuse = refuser(dialect)
        table = (
            ("POST", f"{function}/invocations", self.invoke, "Invoke"),
            ("GET", tasks, self.list, "ListTasks"),
            ("GET", f"{tasks}/{{task}}", self.get, "GetTask"),
            ("PUT", f"{tasks}/{{task}}{dialect.stop_path}", self.stop, "StopTask"),
            ("*", f"/{dialect.version}/{{rest:.*}}", self.unknown, "Other"),
        )
        for method, path, serve, name in table:
            handler: Handler = guarded(partial(serve, dialect), refuse)
            yield Route(
                method=method,
                path=path,
                handler=handler,
                name=f"{name}{dialect.version}",
                summary="Part of the API of Function Compute.",
                replies=(),
                is_open=True,  # who may call is proved by signature
            )

    # -- Operations

    async def invoke(self, dialect: Dialect, request: Request) -> Response:
        """InvokeFunction."""
        kind = request.headers.get("x-fc-invocation-type", "").lower() or "sync"
        if kind not in ("sync", "async"):
            raise Trouble(Kind.INVALID, "x-fc-invocation-type must be Sync or Async")
        size_max = ASYNC_MAX_BYTES if kind == "async" else SYNC_MAX_BYTES
        visit = await self._desk.admit(request, size_max)
        target = self._target(dialect, request, visit)
        options = _options(request) | trace_of_fc(request)
        self._desk.once(request, visit)
        invocation = Invocation(
            account=target.account,
            function=target.function,
            qualifier=target.qualifier,
            payload=visit.body,
            tenant=visit.client.tenant,
            type=CallType.SYNC,
            options=options,
        )
        if kind == "async" or visit.client.sync_to_async:
            return await self._accept(dialect, request, invocation)
        return _reply(*await self._desk.call(request, visit.client, invocation))

    async def get(self, dialect: Dialect, request: Request) -> Response:
        """GetAsyncTask, GetStatefulAsyncInvocation."""
        visit = await self._desk.admit(request, bodies.NOTHING_MAX_BYTES)
        target = self._target(dialect, request, visit)
        record = (await self._task(request, target)).record
        payload = await self._engine.payload(record.id)
        return answer(fc_tasks.shown(record, target.rules, dialect, payload))

    async def list(self, dialect: Dialect, request: Request) -> Response:
        """ListAsyncTasks, ListStatefulAsyncInvocations."""
        visit = await self._desk.admit(request, bodies.NOTHING_MAX_BYTES)
        target = self._target(dialect, request, visit)
        asked = fc_tasks.wanted(request, dialect, target.account, target.function, target.qualifier)
        records, token = await fc_tasks.page(self._engine, asked)
        tasks = []
        for record in records:
            payload = await self._engine.payload(record.id) if asked.payloads else None
            tasks.append(fc_tasks.shown(record, target.rules, dialect, payload))
        fields: dict[str, object] = {dialect.list_member: tasks}
        if token is not None:
            fields["nextToken"] = token
        return answer(fields)

    async def stop(self, dialect: Dialect, request: Request) -> Response:
        """StopAsyncTask, StopStatefulAsyncInvocation; one that has ended is stopped already."""
        visit = await self._desk.admit(request, bodies.NOTHING_MAX_BYTES)
        target = self._target(dialect, request, visit)
        self._desk.once(request, visit)
        record = (await self._task(request, target)).record
        if record.ended_ms is None or record.state is State.UNCERTAIN:
            try:
                await self._engine.cancel(record.id)
            except NotFound as error:
                raise Trouble(Kind.NO_TASK, "the task does not exist any more") from error
            except NotPossible as error:
                if (await self._engine.get(record.id)).record.ended_ms is None:
                    raise Trouble(Kind.TASK_ENDED, str(error)) from error
        if dialect.stop_status == 200:
            return answer({})
        return Response(status=204, headers={"X-Fc-Request-Id": str(uuid.uuid4())})

    async def unknown(self, _: Dialect, request: Request) -> Response:
        """Any other operation."""
        await self._desk.admit(request, SYNC_MAX_BYTES)
        raise Trouble(Kind.NO_OPERATION, "the dispatcher serves invocations and their tasks only")

    # -- Steps

    def _target(self, dialect: Dialect, request: Request, visit: Visit) -> Target:
        """Return what the path and the query name. Raises `Trouble`."""
        function, named = request.parameters["function"], None
        if dialect is not FC3:
            service, _, named = request.parameters["service"].partition(".")
            if not (service and _NAME.fullmatch(service)):
                raise Trouble(Kind.INVALID, f"{service[:200]!r} is not the name of a service")
            function = f"{service}${function}"
        if not _NAME.fullmatch(function):
            raise Trouble(Kind.INVALID, f"{function[:200]!r} is not the name of a function")
        qualifier = named or request.query.get("qualifier") or None
        if qualifier is not None and not _QUALIFIER.fullmatch(qualifier):
            raise Trouble(Kind.INVALID, f"{qualifier[:200]!r} is not a qualifier")
        account_id = request.headers.get("X-Fc-Account-Id")
        account, rules = self._desk.account(visit.client, account_id)
        if not self._desk.is_allowed(rules, function):
            raise Trouble(Kind.NO_FUNCTION, f"function '{function}' does not exist")
        return Target(account, rules, function, qualifier)

    async def _accept(self, dialect: Dialect, request: Request, invocation: Invocation) -> Response:
        chosen = request.headers.get(dialect.task_header) or None
        if chosen is not None and not _TASK_ID.fullmatch(chosen):
            raise Trouble(Kind.INVALID, f"{dialect.task_header} is not a task id")
        invocation = replace(
            invocation,
            type=CallType.ASYNC,
            delay_s=_delay_s(request),
            task_id=chosen,
            idempotency_key=None if chosen is None else _key(invocation.function, chosen),
        )
        exists = Trouble(Kind.TASK_EXISTS, f"task {chosen} of {invocation.function} exists")
        try:
            acceptance = await self._desk.enqueue(invocation, KEY_SPACE)
        except KeyReused as error:
            raise exists from error
        if acceptance.duplicate:
            raise exists
        # No content type: @alicloud/fc2 would take the empty body for broken JSON.
        headers = dict.fromkeys(dialect.reply_headers, chosen or acceptance.id)
        return Response(status=202, headers={"X-Fc-Request-Id": acceptance.id, **headers})

    async def _task(self, request: Request, target: Target) -> View:
        """Return the invocation that a caller means by a task's id. Raises `Trouble`."""
        named = request.parameters["task"]
        view = None
        if _TASK_ID.fullmatch(named):
            key = _key(target.function, named)
            view = await self._engine.keyed(target.account, key, key_space=KEY_SPACE)
            if view is None:
                try:
                    view = await self._engine.get(named)
                except NotFound:
                    view = None
        if view is None or not _is(view.record, target, named):
            message = f"task '{named[:200]}' of function '{target.function}' does not exist"
            raise Trouble(Kind.NO_TASK, message)
        return view


def _is(record: Record, target: Target, named: str) -> bool:
    return (
        record.type is CallType.ASYNC
        and fc_tasks.task_id(record) == named
        and (record.account, record.function) == (target.account, target.function)
        and target.qualifier in (None, record.qualifier or "LATEST")
    )


def _key(function: str, task_id: str) -> str:
    """Return what is taken once one task of a function has an id."""
    return hashlib.blake2b(f"{function}\0{task_id}".encode(), digest_size=20).hexdigest()


def _options(request: Request) -> dict[str, str]:
    """Return what travels on to Function Compute beside the payload. Raises `Trouble`."""
    options = {}
    for name, header in (("log_type", "x-fc-log-type"), ("trace_id", "x-fc-trace-id")):
        if value := request.headers.get(header):
            options[name] = value
    if options.get("log_type", "None") not in ("None", "Tail"):
        raise Trouble(Kind.INVALID, "x-fc-log-type must be None or Tail")
    return options


def _delay_s(request: Request) -> float:
    """Return how long the caller wants it kept; it is kept here, and not sent on."""
    text = request.headers.get("x-fc-async-delay") or "0"
    if not _DIGITS.fullmatch(text) or int(text) > SECONDS_MAX:
        raise Trouble(Kind.INVALID, "x-fc-async-delay must be a number of seconds")
    return float(text)


def _reply(reply: Replied, body: Body) -> Response:
    """Hand on what the function gave, with the headers that tell of its run."""
    failure = reply.failure
    if failure is not None and failure.kind == "reply_too_large":
        raise Trouble(Kind.BAD_REPLY, failure.message)
    if failure is not None and reply.status >= 400:
        cloud = (reply.status, failure.reason or "BadResponse")
        raise Trouble(Kind.BAD_REPLY, failure.message, cloud=cloud)
    headers = {"X-Fc-Request-Id": reply.request_id or str(uuid.uuid4()), **dict(reply.headers)}
    headers.setdefault(hdrs.CONTENT_TYPE, "application/octet-stream")
    return Response(reply.status, body, headers)
