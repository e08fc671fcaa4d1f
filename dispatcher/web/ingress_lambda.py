"""
Lambda's Invoke, so that code written for an AWS SDK needs no more than another endpoint.

After the service model of 2015-03-31 and docs.aws.amazon.com/lambda/latest/api/API_Invoke.html.
An event is in the journal when it is answered; a synchronous call waits its turn.
"""

import base64
import binascii
import functools
import hashlib
import re
import time
import uuid
from collections.abc import Mapping
from typing import Final, NamedTuple

import msgspec
from aiohttp import hdrs
from msgspec import Struct

from dispatcher.config import AccountSettings
from dispatcher.core.canonical import SIGV4
from dispatcher.core.intake import FunctionName, function_name
from dispatcher.core.model import CallType, GateKind, Invocation, Provider, Replied
from dispatcher.web import bodies
from dispatcher.web.clients import Clients
from dispatcher.web.dropin import DropIn, Engine, Handler, Kind, Trouble, Visit, guarded
from dispatcher.web.request import Request
from dispatcher.web.response import JSON, Body, Response
from dispatcher.web.routes import Route
from dispatcher.web.traces import trace_of_lambda

MIB: Final = 1024 * 1024
SYNC_MAX_BYTES: Final = 6 * MIB
EVENT_MAX_BYTES: Final = MIB
INVOKE_ASYNC_MAX_BYTES: Final = 256 * 1024
CLIENT_CONTEXT_MAX: Final = 3583
SDK_RETRIES_MAX_S: Final = 900.0
"""How long a repeat of an SDK's own id is taken for a retry of the same call."""

KEY_SPACE: Final = "sdk"

_QUALIFIER: Final = re.compile(r"[A-Za-z0-9$_.-]{1,128}")
_DURABLE_NAME: Final = re.compile(r"[A-Za-z0-9_-]{1,64}")
_CODE_SIZE: Final = 80_530_636_800
_is_json: Final = msgspec.json.Decoder(msgspec.Raw).decode
_encode: Final = msgspec.json.encode


class Target(NamedTuple):
    """What is to be invoked."""

    account: str
    function: str
    qualifier: str | None


class IngressLambda:
    """Answers what comes to a Lambda endpoint."""

    def __init__(self, engine: Engine, clients: Clients) -> None:
        self._engine = engine
        self._desk = DropIn(engine, clients, Provider.AWS_LAMBDA, frozenset({SIGV4}))

    def routes(self) -> tuple[Route, ...]:
        """Return all that is served, for the application."""
        table: tuple[tuple[str, str, Handler, str], ...] = (
            ("POST", "/2015-03-31/functions/{function}/invocations", self.invoke, "Invoke"),
            ("POST", "/2014-11-13/functions/{function}/invoke-async", self.later, "InvokeAsync"),
            ("POST", "/2014-11-13/functions/{function}/invoke-async/", self.later, "InvokeAsync/"),
            ("GET", "/2016-08-19/account-settings", self.limits, "GetAccountSettings"),
            ("GET", "/2016-08-19/account-settings/", self.limits, "GetAccountSettings/"),
            *(("*", f"/{version}/{{rest:.*}}", self.unknown, version) for version in VERSIONS),
        )
        return tuple(
            Route(
                method=method,
                path=path,
                handler=guarded(handler, refuse),
                name=name,
                summary="Part of the API of AWS Lambda.",
                replies=(),
                is_open=True,  # who may call is proved by signature
            )
            for method, path, handler, name in table
        )

    async def invoke(self, request: Request) -> Response:
        """Invoke."""
        kind = request.headers.get("X-Amz-Invocation-Type") or "RequestResponse"
        if kind not in ("Event", "RequestResponse", "DryRun"):
            raise Trouble(
                Kind.INVALID,
                f"Value {kind!r} at 'invocationType' failed to satisfy constraint: Member must "
                "satisfy enum value set: [Event, RequestResponse, DryRun]",
            )
        size_max = EVENT_MAX_BYTES if kind == "Event" else SYNC_MAX_BYTES
        visit = await self._desk.admit(request, size_max)
        target = self._target(request, visit)
        if kind == "DryRun":
            return Response(status=204, headers={"x-amzn-RequestId": str(uuid.uuid4())})
        options = _options(request.headers if visit.head is None else visit.head.headers)
        _check_json(visit.body)
        if kind == "Event" or visit.client.sync_to_async:
            return await self._accept(request, visit, target, options)
        self._desk.once(request, visit)
        trace = trace_of_lambda(request)
        invocation = _invocation(visit, target, CallType.SYNC, options | trace)
        return _reply(*await self._desk.call(request, visit.client, invocation))

    async def later(self, request: Request) -> Response:
        """InvokeAsync, which is deprecated: an event without a qualifier."""
        visit = await self._desk.admit(request, INVOKE_ASYNC_MAX_BYTES)
        target = self._target(request, visit)
        _check_json(visit.body)
        return await self._accept(request, visit, target, {})

    async def limits(self, request: Request) -> Response:
        """GetAccountSettings: the concurrency is the limit in force here."""
        visit = await self._desk.admit(request, bodies.NOTHING_MAX_BYTES)
        name, _ = self._desk.account(visit.client)
        limit = self._engine.account(name).limit
        body = {
            "AccountLimit": {
                "TotalCodeSize": _CODE_SIZE,
                "CodeSizeUnzipped": 262_144_000,
                "CodeSizeZipped": 52_428_800,
                "ConcurrentExecutions": limit,
                "UnreservedConcurrentExecutions": limit,
            },
            "AccountUsage": {"TotalCodeSize": 0, "FunctionCount": 0},
        }
        headers = {"x-amzn-RequestId": str(uuid.uuid4())}
        return Response(body=_encode(body), headers=headers, content_type=JSON)

    async def unknown(self, request: Request) -> Response:
        """Any other operation."""
        await self._desk.admit(request, SYNC_MAX_BYTES)
        raise Trouble(Kind.NO_OPERATION, "The dispatcher serves Invoke and GetAccountSettings")

    # -- Steps

    def _target(self, request: Request, visit: Visit) -> Target:
        """Return what the path and the query name. Raises `Trouble`."""
        text = request.parameters["function"]
        name = _name(text)
        if name is None:
            raise Trouble(
                Kind.BAD_NAME,
                f"1 validation error detected: Value {text[:200]!r} at 'functionName' failed to "
                "satisfy constraint",
            )
        region = name.region or (None if visit.claim is None else visit.claim.signer.region)
        account, rules = self._desk.account(visit.client, name.account_id, region)
        if name.account_id not in (None, rules.account_id) or name.region not in (
            None,
            rules.region,
        ):
            raise Trouble(
                Kind.DENIED, f"{text} belongs to another account or region than this client"
            )
        asked = request.query.get("Qualifier") or None
        if asked is not None and not _QUALIFIER.fullmatch(asked):
            raise Trouble(
                Kind.BAD_NAME,
                f"1 validation error detected: Value {asked[:200]!r} at 'qualifier' failed to "
                "satisfy constraint",
            )
        if asked is not None and name.qualifier not in (None, asked):
            raise Trouble(
                Kind.INVALID,
                "The derived qualifier from the function name does not match the specified "
                "qualifier.",
            )
        qualifier = name.qualifier or asked
        if not self._desk.is_allowed(rules, name.name):
            raise Trouble(Kind.NO_FUNCTION, _not_found(rules, name.name, qualifier))
        return Target(account, name.name, qualifier)

    async def _accept(
        self, request: Request, visit: Visit, target: Target, options: dict[str, str]
    ) -> Response:
        trace = trace_of_lambda(request)
        sdk_id = request.headers.get("amz-sdk-invocation-id", "")
        claim = visit.claim
        if not sdk_id or (claim is not None and "amz-sdk-invocation-id" not in claim.signer.names):
            self._desk.once(request, visit)
        key = _key(sdk_id, visit, target, options) if sdk_id else None
        while True:
            invocation = _invocation(visit, target, CallType.ASYNC, options | trace, key)
            acceptance = await self._desk.enqueue(invocation, KEY_SPACE)
            if not acceptance.duplicate or await self._is_retry(acceptance.id):
                break
            # Another call, and the next in a row of such.
            key = _digest(f"{key} {acceptance.id}", b"")
        # No content type: there is no content.
        return Response(202, headers={"x-amzn-RequestId": acceptance.id})

    async def _is_retry(self, first_id: str) -> bool:
        """Tell whether what was accepted before is so new that this may be an SDK's retry of it."""
        record = (await self._engine.get(first_id)).record
        return time.time() - record.accepted_ms / 1000 < SDK_RETRIES_MAX_S


VERSIONS: Final = ("2014-11-13", "2015-03-31", "2016-08-19", "2021-11-15")


@functools.lru_cache(maxsize=4096)
def _name(text: str) -> FunctionName | None:
    return function_name(text, Provider.AWS_LAMBDA)


def _invocation(
    visit: Visit,
    target: Target,
    call_type: CallType,
    options: dict[str, str],
    key: str | None = None,
) -> Invocation:
    return Invocation(
        account=target.account,
        function=target.function,
        qualifier=target.qualifier,
        payload=visit.body,
        tenant=visit.client.tenant,
        type=call_type,
        options=options,
        idempotency_key=key,
    )


def _digest(words: str, payload: bytes) -> str:
    hasher = hashlib.blake2b(words.encode("utf-8", "surrogateescape"), digest_size=20)
    hasher.update(payload)
    return hasher.hexdigest()


def _key(sdk_id: str, visit: Visit, target: Target, options: dict[str, str]) -> str:
    """Return what repeats of one call have in common, and no other call."""
    words = (
        sdk_id,
        "" if visit.claim is None else visit.claim.signer.access_key_id,
        target.function,
        target.qualifier or "",
        visit.client.tenant,
        *(word for item in sorted(options.items()) for word in item),
        "",
    )
    # No header has a line feed in it, so nothing is read across the words.
    return _digest("\n".join(words), visit.body)


def _options(headers: Mapping[str, str]) -> dict[str, str]:
    """Return what travels on to Lambda beside the payload. Raises `Trouble`."""
    options = {name: value for header, name in _OPTIONS if (value := headers.get(header))}
    if options:
        _check_options(options)
    return options


_OPTIONS: Final = (
    ("x-amz-client-context", "client_context"),
    ("x-amz-durable-execution-name", "durable_execution_name"),
    ("x-amz-log-type", "log_type"),
    ("x-amz-tenant-id", "tenant_id"),
)


def _check_options(options: dict[str, str]) -> None:
    if options.get("log_type", "None") not in ("None", "Tail"):
        raise Trouble(
            Kind.INVALID,
            f"Value {options['log_type'][:200]!r} at 'logType' failed to satisfy constraint: "
            "Member must satisfy enum value set: [None, Tail]",
        )
    if len(options.get("tenant_id", "")) > 256 or not _DURABLE_NAME.fullmatch(
        options.get("durable_execution_name", "-")
    ):
        raise Trouble(Kind.INVALID, "the tenant id or the durable execution name is not one")
    _check_client_context(options.get("client_context", ""))


def _check_client_context(context: str) -> None:
    if len(context) > CLIENT_CONTEXT_MAX:
        raise Trouble(
            Kind.BAD_CONTENT,
            f"Client context must be no more than {CLIENT_CONTEXT_MAX} bytes when base64-encoded",
        )
    try:
        base64.b64decode(context, validate=True)
    except (binascii.Error, ValueError) as error:
        raise Trouble(Kind.BAD_CONTENT, "Client context must be valid base64") from error


def _check_json(body: bytes) -> None:
    """Raise `Trouble` for what Lambda would not take; an empty payload is fine."""
    if not body:
        return
    try:
        _is_json(body)
        if not body.isascii():
            body.decode()
    except RecursionError:
        return  # deeper than we look; Lambda will say
    except (msgspec.DecodeError, UnicodeDecodeError) as error:
        half = bodies.half_a_character(body)
        flaw = error if half is None else f"{half[0]} (at {half[1]!r})"
        raise Trouble(
            Kind.BAD_CONTENT, f"Could not parse request body into json: {flaw}"
        ) from error


def _not_found(account: AccountSettings, function: str, qualifier: str | None) -> str:
    arn = f"arn:aws:lambda:{account.region}:{account.account_id}:function:{function}"
    return f"Function not found: {arn}{f':{qualifier}' if qualifier else ''}"


# -- Answers --------------------------------------------------------------------------------------


def _reply(reply: Replied, body: Body) -> Response:
    """Hand on what the function gave, with the headers that tell of its run."""
    headers = dict(reply.headers)
    headers["x-amzn-RequestId"] = reply.request_id or str(uuid.uuid4())
    if reply.failure is not None and reply.failure.kind == "reply_too_large":
        headers |= {"X-Amz-Function-Error": "Unhandled", hdrs.CONTENT_TYPE: JSON}
        body = _encode(
            {"errorMessage": reply.failure.message, "errorType": "Function.ResponseSizeTooLarge"}
        )
    return Response(reply.status, body, headers)


class _Error(Struct, frozen=True):
    """How one kind of trouble is told."""

    status: int
    code: str
    member: str = "message"
    """Some shapes of the model spell it `Message`."""


_ERRORS: Final[Mapping[Kind, _Error]] = {
    Kind.UNSIGNED: _Error(403, "MissingAuthenticationTokenException"),
    Kind.MALFORMED_SIGNATURE: _Error(403, "IncompleteSignatureException"),
    Kind.UNKNOWN_KEY: _Error(403, "UnrecognizedClientException"),
    Kind.EXPIRED: _Error(403, "InvalidSignatureException"),
    Kind.REPEATED: _Error(403, "InvalidSignatureException"),
    Kind.WRONG_SIGNATURE: _Error(403, "InvalidSignatureException"),
    Kind.DENIED: _Error(403, "AccessDeniedException", "Message"),
    Kind.NO_FUNCTION: _Error(404, "ResourceNotFoundException", "Message"),
    Kind.NO_OPERATION: _Error(404, "UnknownOperationException"),
    Kind.INVALID: _Error(400, "InvalidParameterValueException"),
    Kind.BAD_NAME: _Error(400, "ValidationException"),
    Kind.BAD_CONTENT: _Error(400, "InvalidRequestContentException"),
    Kind.BAD_MODE: _Error(400, "ModeNotSupportedException"),
    Kind.TOO_LARGE: _Error(413, "RequestTooLargeException"),
    Kind.TOO_SLOW: _Error(408, "RequestTimeoutException"),
    Kind.THROTTLED: _Error(429, "TooManyRequestsException"),
    Kind.UNAVAILABLE: _Error(503, "ServiceUnavailableException", "Message"),
    Kind.OUR_KEYS: _Error(502, "ServiceException", "Message"),
    Kind.LOST: _Error(502, "ServiceException", "Message"),
}

_REASONS: Final = {
    GateKind.FUNCTION: "ReservedFunctionConcurrentInvocationLimitExceeded",
    GateKind.ACCOUNT: "ConcurrentInvocationLimitExceeded",
    GateKind.TENANT: "ConcurrentInvocationLimitExceeded",
    GateKind.RETRY_AFTER: "ConcurrentInvocationLimitExceeded",
}


def refuse(request: Request, trouble: Trouble) -> Response:  # noqa: ARG001 -- a `Refuse`
    """Answer with an error of the service model."""
    error = _ERRORS[trouble.kind]
    status, code = trouble.cloud or (error.status, error.code)
    fields = {"Type": "User" if status < 500 else "Service", error.member: str(trouble)}
    if trouble.kind is Kind.THROTTLED:
        gate = GateKind(trouble.gate or GateKind.RATE)
        fields = {"Reason": _REASONS.get(gate, "CallerRateLimitExceeded"), **fields}
    if trouble.cloud is not None:
        # The member's case depends on the error, and SDKs look for either.
        fields = {"Type": fields["Type"], "message": str(trouble), "Message": str(trouble)}
    headers = {"x-amzn-RequestId": str(uuid.uuid4()), "x-amzn-ErrorType": code}
    return Response(status=status, body=_encode(fields), headers=headers, content_type=JSON)
