"""The requests of the HTTP API: read, ask the engine, answer. Nothing is decided here."""

import asyncio
import re
import time
from collections.abc import Awaitable, Callable, Mapping
from typing import Any, Final, TypeVar

import msgspec
from aiohttp import hdrs
from msgspec import UNSET, Struct

from dispatcher.core.callback import is_token
from dispatcher.core.model import State
from dispatcher.core.trace_context import TRACEPARENT, TRACESTATE
from dispatcher.core.views import Acceptance, AccountView
from dispatcher.errors import Invalid, KeyReused, NotFound, Rejected
from dispatcher.web import bodies, ndjson, problems, wire
from dispatcher.web.access import bearer
from dispatcher.web.bodies import NDJSON
from dispatcher.web.ports import Engine
from dispatcher.web.request import Request
from dispatcher.web.response import JSON, Response
from dispatcher.web.routes import Reply, Route
from dispatcher.web.traces import trace_of

Q = TypeVar("Q", bound=Struct)

Metrics = Callable[[str], Awaitable[tuple[bytes, str]]]
"""Renders the metrics: from an Accept header to a page and its content type."""

KEY_HEADER: Final = "Idempotency-Key"
MERGE_PATCH: Final = "application/merge-patch+json"

DESCRIBE_AT_ONCE: Final = 100
"""Invocations of a page that are described before others get their turn."""

_invocation: Final = msgspec.json.Decoder(wire.NewInvocation)
_completion: Final = msgspec.json.Decoder(wire.NewCompletion)
_changes: Final = msgspec.json.Decoder(Mapping[str, Any])
_encode: Final = msgspec.json.Encoder().encode
_ID: Final = re.compile(r"[A-Za-z_][A-Za-z0-9_-]{0,127}")
_FUNCTION: Final = re.compile(r"[A-Za-z0-9_$.-]{1,128}")
_KEY: Final = re.compile(r"[!-~]{1,256}")

_LOCATION: Final = {"Location": "Where it can be looked up."}
_ACCEPTED: Final = Reply(status=202, means="It is in the journal.", body=Acceptance)
_WRONG_BODY: Final = (400, 408, 413, 415, 422)
_REFUSED_WORK: Final = (429, 503, 507)


class Api:
    """Answers requests with what the engine says."""

    def __init__(self, engine: Engine) -> None:
        self._engine = engine

    # -- Invocations ---------------------------------------------------------------------------

    async def enqueue(self, request: Request) -> Response:
        """Accept one invocation, or many."""
        if bodies.content_type(request, (JSON, NDJSON)) == NDJSON:
            return await self._enqueue_many(request)
        body = await bodies.read(request, bodies.BODY_MAX_BYTES)
        key = _key_of_header(request) if KEY_HEADER in request.headers else None
        said = bodies.decode(_invocation, body)
        invocation = wire.invocation_of(said, key, trace_of(request))
        try:
            ticket = self._engine.enqueue(invocation, source="http")
            # If the caller leaves meanwhile it is accepted all the same: a commit stands.
            acceptance = await ticket.accepted()
        except KeyReused as error:
            if key is None or said.idempotency_key is not None:
                raise
            raise problems.blame_parameter(error, KEY_HEADER) from error
        except Rejected as error:
            wire.point_as_sent(error, said)
            raise
        return _json(acceptance, 202, {hdrs.LOCATION: f"/v1/invocations/{acceptance.id}"})

    async def _enqueue_many(self, request: Request) -> Response:
        if KEY_HEADER in request.headers:
            raise problems.invalid_parameter("each line has a key of its own", KEY_HEADER)
        body = await bodies.read(request, ndjson.BODY_MAX_BYTES)
        return Response(
            body=await ndjson.accept(self._engine, body, trace_of(request)), content_type=NDJSON
        )

    async def get(self, request: Request) -> Response:
        """Show one invocation."""
        view = await self._engine.get(_id(request))
        return _json(wire.described(view, time.time()))

    async def find(self, request: Request) -> Response:
        """Show a page of invocations."""
        wanted = _query(request, wire.Listing)
        state = None if wanted.state is UNSET else wanted.state
        after = None if wanted.after is UNSET else wanted.after
        try:
            views, cursor = await self._engine.find(
                wire.query_of(wanted, state), after=after, limit=wanted.limit
            )
        except Invalid as error:
            raise problems.invalid_parameter(str(error), (error.pointer or "")[1:]) from error
        now_s = time.time()
        items = []
        for number, view in enumerate(views, start=1):
            items.append(wire.described(view, now_s, results=False))
            if number % DESCRIBE_AT_ONCE == 0:
                await asyncio.sleep(0)
        return _json(wire.Page(items, cursor))

    async def cancel(self, request: Request) -> Response:
        """Cancel one that waits, or have the cloud stop it."""
        invocation_id = _id(request)
        state = await self._engine.cancel(invocation_id)
        status = 200 if state is State.CANCELLED else 202
        return _json(wire.Cancelled(invocation_id, state), status)

    async def complete(self, request: Request) -> Response:
        """Take the news that a function has ended, from the function or from an operator."""
        invocation_id = _id(request)
        shown = bearer(request) or ""
        token = shown if is_token(shown) and not request.is_known else None
        bodies.content_type(request, (JSON,))
        body = await bodies.read(request, bodies.BODY_MAX_BYTES)
        completion = wire.completion_of(bodies.decode(_completion, body), invocation_id)
        await self._engine.complete(completion, token=token, is_known=request.is_known)
        return Response(204)

    async def redrive(self, request: Request) -> Response:
        """Let a dead one wait again."""
        await bodies.nothing(request)
        await self._engine.redrive(_id(request))
        return _json(wire.Redriven(1), 202)

    async def redrive_dead(self, request: Request) -> Response:
        """Let many dead ones wait again."""
        await bodies.nothing(request)
        wanted = wire.query_of(_query(request, wire.Filter), State.DEAD)
        return _json(wire.Redriven(await self._engine.redrive_dead(wanted)), 202)

    # -- Accounts ------------------------------------------------------------------------------

    async def accounts(self, request: Request) -> Response:  # noqa: ARG002 -- a handler
        """Show all accounts."""
        return _json(wire.Accounts(self._engine.accounts()))

    async def account(self, request: Request) -> Response:
        """Show one account."""
        return _json(self._engine.account(request.parameters["account"]))

    async def adjust(self, request: Request) -> Response:
        """Change weights, reservations and limits of an account."""
        bodies.content_type(request, (JSON, MERGE_PATCH))
        body = await bodies.read(request, bodies.BODY_MAX_BYTES)
        account = request.parameters["account"]
        self._engine.adjust(account, bodies.decode(_changes, body))
        return _json(self._engine.account(account))

    async def pause(self, request: Request) -> Response:
        """Stop sending what belongs to an account or to a function."""
        await bodies.nothing(request)
        self._engine.pause(request.parameters["account"], _function(request))
        await self._engine.durable()
        return Response(204)

    async def resume(self, request: Request) -> Response:
        """Send again."""
        await bodies.nothing(request)
        self._engine.resume(request.parameters["account"], _function(request))
        await self._engine.durable()
        return Response(204)

    # -- Operation -----------------------------------------------------------------------------

    async def alive(self, request: Request) -> Response:  # noqa: ARG002 -- a handler
        """Say that the process answers at all."""
        return _json(wire.Health("alive"))

    async def ready(self, request: Request) -> Response:  # noqa: ARG002 -- a handler
        """Say whether invocations can be accepted."""
        why_not = self._engine.not_ready()
        if why_not is not None:
            raise problems.not_ready(why_not)
        return _json(wire.Health("ready"))

    # -- The table -----------------------------------------------------------------------------

    def routes(self) -> tuple[Route, ...]:
        """Return all requests that are answered here."""
        return (
            *self._invocation_routes(),
            *self._account_routes(),
            *self._operation_routes(),
        )

    def _invocation_routes(self) -> tuple[Route, ...]:
        return (
            Route(
                method="POST",
                path="/v1/invocations",
                handler=self.enqueue,
                name="enqueue",
                summary="Enqueue an invocation, or many as NDJSON.",
                headers={KEY_HEADER: wire.Key, TRACEPARENT: wire.TraceParent, TRACESTATE: str},
                bodies={JSON: wire.NewInvocation, NDJSON: str},
                replies=(
                    msgspec.structs.replace(_ACCEPTED, headers=_LOCATION),
                    Reply(
                        status=200,
                        means="For each line an `Acceptance` or a `RefusedLine`, in order.",
                        body=str,
                        media=NDJSON,
                    ),
                ),
                problems=(*_WRONG_BODY, *_REFUSED_WORK),
            ),
            Route(
                method="GET",
                path="/v1/invocations",
                handler=self.find,
                name="find",
                summary="List invocations, newest first.",
                query=wire.Listing,
                replies=(Reply(status=200, means="A page.", body=wire.Page),),
                problems=(422, 503),
            ),
            Route(
                method="GET",
                path="/v1/invocations/{id}",
                handler=self.get,
                name="get",
                summary="Look an invocation up.",
                replies=(Reply(status=200, means="As it stands.", body=wire.Described),),
                problems=(404, 503),
            ),
            Route(
                method="DELETE",
                path="/v1/invocations/{id}",
                handler=self.cancel,
                name="cancel",
                summary="Cancel an invocation that waits, or stop it in the cloud.",
                replies=(
                    Reply(status=200, means="It is cancelled.", body=wire.Cancelled),
                    Reply(status=202, means="The cloud will stop it.", body=wire.Cancelled),
                ),
                problems=(404, 409, 503),
            ),
            Route(
                method="POST",
                path="/v1/invocations/{id}/completion",
                handler=self.complete,
                name="complete",
                summary="Tell that the function has ended; its own token is enough for that.",
                bodies={JSON: wire.NewCompletion},
                replies=(Reply(status=204, means="Taken; a repeat changes nothing."),),
                problems=(404, *_WRONG_BODY, 503),
                takes_own_tokens=True,
            ),
            Route(
                method="POST",
                path="/v1/invocations/{id}/redrive",
                handler=self.redrive,
                name="redrive",
                summary="Let a dead or uncertain invocation wait again.",
                replies=(Reply(status=202, means="It waits again.", body=wire.Redriven),),
                problems=(400, 404, 409, 413, 415, 422, *_REFUSED_WORK),
            ),
            Route(
                method="POST",
                path="/v1/dead/redrive",
                handler=self.redrive_dead,
                name="redriveDead",
                summary="Let all dead invocations that fit wait again.",
                query=wire.Filter,
                replies=(Reply(status=202, means="They wait again.", body=wire.Redriven),),
                problems=(400, 404, 413, 415, 422, *_REFUSED_WORK),
            ),
        )

    def _account_routes(self) -> tuple[Route, ...]:
        def switch(verb: str, handler: Callable[[Request], Awaitable[Response]]) -> Route:
            return Route(
                method="POST",
                path=f"/v1/accounts/{{account}}/{verb}",
                handler=handler,
                name=f"{verb}Account",
                summary=f"{verb.capitalize()} sending for an account.",
                replies=(Reply(status=204, means="Done, or so already."),),
                problems=(400, 404, 413, 415, 422, 503),
            )

        pause, resume = switch("pause", self.pause), switch("resume", self.resume)
        return (
            Route(
                method="GET",
                path="/v1/accounts",
                handler=self.accounts,
                name="accounts",
                summary="Show all accounts.",
                replies=(Reply(status=200, means="As they stand.", body=wire.Accounts),),
            ),
            Route(
                method="GET",
                path="/v1/accounts/{account}",
                handler=self.account,
                name="account",
                summary="Show an account.",
                replies=(Reply(status=200, means="As it stands.", body=AccountView),),
                problems=(404,),
            ),
            Route(
                method="PATCH",
                path="/v1/accounts/{account}",
                handler=self.adjust,
                name="adjustAccount",
                summary="Change an account's rules, until the next reload or restart.",
                bodies={JSON: wire.AccountPatch, MERGE_PATCH: wire.AccountPatch},
                replies=(Reply(status=200, means="As it stands now.", body=AccountView),),
                problems=(404, *_WRONG_BODY),
            ),
            pause,
            resume,
            *(
                msgspec.structs.replace(
                    route,
                    path=route.path.replace("{account}", "{account}/functions/{function}"),
                    name=route.name.replace("Account", "Function"),
                    summary=route.summary.replace("an account", "a function"),
                )
                for route in (pause, resume)
            ),
        )

    def _operation_routes(self) -> tuple[Route, ...]:
        return (
            Route(
                method="GET",
                path="/healthz",
                handler=self.alive,
                name="alive",
                summary="Tell whether the process answers.",
                replies=(Reply(status=200, means="It does.", body=wire.Health),),
                is_open=True,
            ),
            Route(
                method="GET",
                path="/readyz",
                handler=self.ready,
                name="ready",
                summary="Tell whether invocations can be accepted.",
                replies=(Reply(status=200, means="They can.", body=wire.Health),),
                problems=(503,),
                is_open=True,
            ),
        )


def health_routes(engine: Engine) -> tuple[Route, ...]:
    """Return the requests by which a prober learns how the process is."""
    return tuple(route for route in Api(engine).routes() if route.name in ("alive", "ready"))


def metrics_route(metrics: Metrics) -> Route:
    """Return the request for the metrics, which a listener of its own may serve as well."""

    async def handler(request: Request) -> Response:
        page, content_type = await metrics(request.headers.get(hdrs.ACCEPT, ""))
        return Response(body=page, headers={hdrs.CONTENT_TYPE: content_type})

    return Route(
        method="GET",
        path="/metrics",
        handler=handler,
        name="metrics",
        summary="Show the metrics for Prometheus.",
        headers={"Accept": str},
        replies=(
            Reply(status=200, means="Text, or OpenMetrics if asked.", body=str, media="text/plain"),
        ),
    )


def _json(body: object, status: int = 200, headers: dict[str, str] | None = None) -> Response:
    return Response(status, _encode(body), headers, content_type=JSON)


def _id(request: Request) -> str:
    invocation_id = request.parameters["id"]
    if not _ID.fullmatch(invocation_id):
        raise NotFound("this cannot be the id of an invocation")
    return invocation_id


def _function(request: Request) -> str | None:
    """Return the function that the path names; None: it names none."""
    function = request.parameters.get("function")
    if function is not None and not _FUNCTION.fullmatch(function):
        raise NotFound("this cannot be the name of a function")
    return function


def _key_of_header(request: Request) -> str:
    """Return the idempotency key, with or without the quotation marks of a structured field."""
    keys = set(request.headers.getall(KEY_HEADER))
    key = keys.pop()
    if keys:
        raise problems.invalid_parameter("given twice, and not the same", KEY_HEADER)
    if len(key) > 1 and key[0] == key[-1] == '"':
        key = key[1:-1]
    if not _KEY.fullmatch(key):
        raise problems.invalid_parameter("a key is 1 to 256 visible ASCII characters", KEY_HEADER)
    return key


def _query(request: Request, kind: type[Q]) -> Q:
    """Read the query parameters. Raises a `Refusal` that names the wrong one."""
    given = request.query
    for name in given:
        if len(given.getall(name)) > 1:
            raise problems.invalid_parameter("given more than once", name)
    try:
        return msgspec.convert(dict(given), kind, strict=False)
    except msgspec.ValidationError as error:
        wrong = bodies.blame(str(error))
        raise problems.invalid_parameter(str(wrong), (wrong.pointer or "")[1:]) from error
