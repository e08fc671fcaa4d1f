"""The transport of AWS Lambda: `Invoke` as `Event` and as `RequestResponse`, signed by hand."""

import base64
import functools
import json
import time
from collections.abc import Callable, Mapping
from typing import Final, NamedTuple

from yarl import URL

from dispatcher.config import AccountSettings
from dispatcher.core.model import Call, CallType, Denied, Failure, Lost, NotSent, Outcome, Refused
from dispatcher.core.rules import AccountRules
from dispatcher.core.trace_context import TRACEPARENT, TRACESTATE, carried, xray
from dispatcher.ports import Begin
from dispatcher.transports import lambda_replies, signing
from dispatcher.transports.credentials import Keyring, Keys
from dispatcher.transports.replies import handing_on
from dispatcher.transports.wire import (
    ACCEPT_LIMITS,
    ERROR_BODY_MAX,
    MIB,
    Reply,
    Wire,
    body_digest,
    hold_max_s,
    plain_value,
    run_limits,
)

PAYLOAD_MAX: Final = {CallType.ASYNC: MIB, CallType.SYNC: 6 * MIB}
"""Bytes; docs.aws.amazon.com/lambda/latest/dg/gettingstarted-limits.html, where MB means MiB."""
REPLY_MAX: Final = 8 * MIB
"""The function's reply has at most 6 MiB."""
IDLE_MAX_S: Final = 12.0
"""What aiobotocore uses; AWS does not say when it closes an idle connection."""
TARGETS_MAX: Final = 4096
"""Functions whose URLs are remembered."""

OPTIONS: Final = {
    "client_context": "x-amz-client-context",
    "durable_execution_name": "x-amz-durable-execution-name",
    "log_type": "x-amz-log-type",
    "tenant_id": "x-amz-tenant-id",
}
"""What an invocation's `options` may say, and the header that carries it."""
CLIENT_CONTEXT_MAX: Final = 3583
"""Characters of it; docs.aws.amazon.com/lambda/latest/api/API_Invoke.html."""

_OCTETS: Final = ("content-type", "application/octet-stream")
_TRACE: Final[tuple[str, ...]] = (TRACEPARENT, TRACESTATE)
_TYPES: Final = {CallType.ASYNC: "Event", CallType.SYNC: "RequestResponse"}

# The start of a region's name -> the DNS suffix of its partition, where it is not the public one.
_SUFFIXES: Final = {
    "cn-": "amazonaws.com.cn",
    "eu-isoe-": "cloud.adc-e.uk",
    "eusc-": "amazonaws.eu",
    "us-iso-": "c2s.ic.gov",
    "us-isob-": "sc2s.sgov.gov",
    "us-isof-": "csp.hci.ic.gov",
}


class _Target(NamedTuple):
    """Where a function is, in the forms that sending and signing want."""

    line: str
    path: str
    query: str


class LambdaTransport:
    """Sends to one account in one region. Must be made inside a running loop."""

    def __init__(
        self,
        account: AccountSettings,
        keyring: Keyring,
        *,
        clock: Callable[[], float] = time.time,
    ) -> None:
        """Take over *keyring*, which is open. *clock* gives the Unix time to sign with."""
        endpoint = URL(account.endpoint or default_endpoint(account.region))
        self._host = endpoint.host_port_subcomponent or ""
        self._region = account.region
        self._keyring = keyring
        self._account: AccountRules = account
        self._clock = clock
        self._target = functools.lru_cache(TARGETS_MAX)(self._make_target)
        self._wire = Wire(endpoint, connections_max=account.requests_max, idle_max_s=IDLE_MAX_S)

    def payload_max_bytes(self, call_type: CallType) -> int:
        """Return the largest payload that Lambda takes."""
        return PAYLOAD_MAX[call_type]

    async def send(self, call: Call, begin: Begin | None = None) -> Outcome:
        """Send once, and once more with fresh keys if the keys are refused."""
        try:
            target = self._target(call.function, call.qualifier)
            options = _call_headers(call)
        except ValueError as error:
            return Refused(Failure("invalid", str(error)))
        waits = call.type is CallType.SYNC
        limits = run_limits(hold_max_s(self._account, call.function)) if waits else ACCEPT_LIMITS
        digest = await body_digest(call.payload)

        def judge(reply: Reply) -> Outcome:
            return lambda_replies.outcome(call, reply, self._clock())

        async def attempt(keys: Keys) -> Outcome:
            headers = self._signed("POST", target, keys, options, digest)
            if TRACEPARENT in call.options:
                # Not signed, as in AWS's own SDKs: a proxy on the way may be part of the trace.
                headers.extend(_trace_headers(call))
            reply = await self._wire.exchange(
                "POST",
                target.line,
                headers,
                call.payload,
                limits=limits,
                body_max=REPLY_MAX if waits else ERROR_BODY_MAX,
                begin=handing_on(judge, begin),
            )
            return reply if isinstance(reply, (NotSent, Lost)) else judge(reply)

        return await self._keyring.signed(attempt)

    async def look(self, version: str, *path: str) -> tuple[int, bytes] | Denied | NotSent | Lost:
        """
        Make one signed GET to the management API: *path* below the *version*, not escaped.

        Returns `(status, body)` of any reply that is not a denial.
        """
        try:
            below = "/".join(signing.path_segment(each) for each in path)
        except ValueError as error:
            return NotSent(Failure("invalid", str(error)))
        whole = f"/{version}/{below}"
        target = _Target(whole, signing.sigv4_path(whole), "")
        digest = await body_digest(b"")

        async def attempt(keys: Keys) -> tuple[int, bytes] | Denied | NotSent | Lost:
            reply = await self._wire.exchange(
                "GET",
                target.line,
                self._signed("GET", target, keys, [], digest),
                b"",
                limits=ACCEPT_LIMITS,
                body_max=ERROR_BODY_MAX,
            )
            if isinstance(reply, (NotSent, Lost)):
                return reply
            return lambda_replies.denied(reply, self._clock()) or (reply.status, reply.body)

        return await self._keyring.signed(attempt)

    async def stop(self, call: Call) -> bool:  # noqa: ARG002 -- part of the port
        """Lambda has no way to stop an invocation."""
        return False

    def reconfigure(self, account: AccountRules) -> None:
        """Take what can change while it is open: `requests_max`, and functions' `hold_max_s`."""
        self._account = account
        self._wire.resize(account.requests_max)

    async def aclose(self) -> None:
        """Close the connections; sends in flight are lost."""
        try:
            await self._keyring.aclose()
        finally:
            await self._wire.aclose()

    def _make_target(self, function: str, qualifier: str | None) -> _Target:
        path = f"/2015-03-31/functions/{signing.path_segment(function)}/invocations"
        query = "" if qualifier is None else signing.canonical_query([("Qualifier", qualifier)])
        return _Target(f"{path}?{query}" if query else path, signing.sigv4_path(path), query)

    def _signed(
        self,
        method: str,
        target: _Target,
        keys: Keys,
        more: list[tuple[str, str]],
        digest: str,
    ) -> list[tuple[str, str]]:
        """Return all headers: Host, what is in *more*, the time, and the signature of them."""
        moment = signing.sigv4_time(int(self._clock()))
        headers = [("host", self._host), ("x-amz-date", moment), *more]
        if keys.security_token:
            headers.append(("x-amz-security-token", keys.security_token))
        signed = sorted([(name, signing.sigv4_value(value)) for name, value in headers])
        signature = signing.sigv4_signature(
            keys.access_key_secret,
            moment,
            self._region,
            "lambda",
            signing.canonical_request(method, target.path, target.query, signed, digest),
        )
        authorization = signing.sigv4_authorization(
            keys.access_key_id,
            moment,
            self._region,
            "lambda",
            signing.signed_names(signed),
            signature,
        )
        return [*headers, ("authorization", authorization), _OCTETS]


def default_endpoint(region: str) -> str:
    """Return Lambda's public endpoint in *region*, whatever its partition."""
    suffixes = (suffix for start, suffix in _SUFFIXES.items() if region.startswith(start))
    return f"https://lambda.{region}.{next(suffixes, 'amazonaws.com')}"


def _call_headers(call: Call) -> list[tuple[str, str]]:
    """Return the headers that say how to run the function. Raises `ValueError`."""
    headers = [("x-amz-invocation-type", _TYPES[call.type])]
    waits = call.type is CallType.SYNC
    options: Mapping[str, str] = call.options
    if waits and TRACEPARENT in options:
        options = _with_trace(options)
    for name, value in options.items():
        if name in _TRACE:
            continue  # _trace_headers
        if name not in OPTIONS:
            raise ValueError(f"option {name!r} is none of {', '.join(OPTIONS)}")
        # A log comes back with the reply only: an asynchronous call has none.
        if name != "log_type" or waits:
            headers.append((OPTIONS[name], plain_value(f"option {name!r}", value)))
    return headers


def _trace_headers(call: Call) -> list[tuple[str, str]]:
    """Return what keeps the function in the trace: Lambda hands on X-Ray's header to it."""
    trace = carried(call.options[TRACEPARENT], call.options.get(TRACESTATE))
    return [*trace.items(), ("x-amzn-trace-id", xray(trace[TRACEPARENT]))] if trace else []


def _with_trace(options: Mapping[str, str]) -> Mapping[str, str]:
    """
    Put the trace into the client context, which a function that is waited for gets to see.

    A caller's own context stays as it is where there is no room in it.
    """
    try:
        context = json.loads(base64.b64decode(options.get("client_context", "e30=")))
    except ValueError:
        return options
    custom = context.setdefault("custom", {}) if isinstance(context, dict) else None
    if not isinstance(custom, dict) or TRACEPARENT in custom:
        return options
    custom |= {name: options[name] for name in _TRACE if name in options}
    text = base64.b64encode(json.dumps(context, separators=(",", ":")).encode()).decode()
    return options if len(text) > CLIENT_CONTEXT_MAX else {**options, "client_context": text}
