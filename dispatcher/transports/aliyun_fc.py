"""
The transport of Alibaba Cloud Function Compute: the API of 2023-03-30, signed by hand.

That API reaches functions of FC 2.0 as well, under the name `service$function`.
"""

import asyncio
import functools
import logging
import secrets
import time
from collections.abc import Callable, Mapping, Sequence
from typing import Final, NamedTuple

from yarl import URL

from dispatcher.config import AccountSettings
from dispatcher.core.model import (
    Call,
    CallType,
    Denied,
    Failure,
    Lost,
    NotSent,
    Outcome,
    Refused,
    Throttled,
)
from dispatcher.core.rules import AccountRules
from dispatcher.core.trace_context import TRACEPARENT, TRACESTATE, carried, jaeger
from dispatcher.ports import Begin
from dispatcher.transports import fc_replies, signing
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

logger = logging.getLogger(__name__)

VERSION: Final = "2023-03-30"
PAYLOAD_MAX: Final = {CallType.ASYNC: 128 * 1024, CallType.SYNC: 32 * MIB}
"""Bytes; help.aliyun.com, functioncompute/limits-of-usage."""
REPLY_MAX: Final = 32 * MIB
TASKS_REPLY_MAX: Final = 8 * MIB
"""A list has at most 100 tasks; their payloads need not be asked for."""
IDLE_MAX_S: Final = 8.0
"""FC closes idle connections after 90 s, but gateways before it were seen to do so after 10 s."""
MANAGE_CONNECTIONS_MAX: Final = 8
"""Apart from those of sends, so that the news of ends never waits behind what has to end."""
TARGETS_MAX: Final = 4096
"""Functions whose URLs are remembered."""

OPTIONS: Final = {
    "async_delay": ("x-fc-async-delay", CallType.ASYNC),
    "log_type": ("x-fc-log-type", CallType.SYNC),
    "trace_id": ("x-fc-trace-id", None),
}
"""What an invocation's `options` may say, the header that carries it, and with which calls."""
SPAN_CONTEXT: Final = "x-fc-tracing-opentracing-span-context"
"""What FC's runtimes give functions as the context of their spans."""

_TRACE: Final[tuple[str, ...]] = (TRACEPARENT, TRACESTATE)
_TYPES: Final = {CallType.ASYNC: "Async", CallType.SYNC: "Sync"}
_OCTETS: Final = ("content-type", "application/octet-stream")
_JSON: Final = ("content-type", "application/json; charset=utf-8")

ManageReply = tuple[int, Mapping[str, str], bytes] | Throttled | Denied | NotSent | Lost


class _Target(NamedTuple):
    """Where something is, in the forms that sending and signing want."""

    line: str
    path: str
    query: str


class FcTransport:
    """Sends to one account in one region. Must be made inside a running loop."""

    def __init__(
        self,
        account: AccountSettings,
        keyring: Keyring,
        *,
        clock: Callable[[], float] = time.time,
    ) -> None:
        """Take over *keyring*, which is open. *clock* gives the Unix time to sign with."""
        endpoint = URL(account.endpoint or default_endpoint(account.account_id, account.region))
        self._host = endpoint.host_port_subcomponent or ""
        self._keyring = keyring
        self._account: AccountRules = account
        self._clock = clock
        self._target = functools.lru_cache(TARGETS_MAX)(self._make_target)
        self._wire = Wire(endpoint, connections_max=account.requests_max, idle_max_s=IDLE_MAX_S)
        self._management = Wire(
            endpoint, connections_max=MANAGE_CONNECTIONS_MAX, idle_max_s=IDLE_MAX_S
        )

    def payload_max_bytes(self, call_type: CallType) -> int:
        """Return the largest payload that Function Compute takes."""
        return PAYLOAD_MAX[call_type]

    async def send(self, call: Call, begin: Begin | None = None) -> Outcome:
        """Send once, and once more with fresh keys if the keys are refused."""
        try:
            target = self._target(call.function, call.qualifier)
            extra = _call_headers(call)
        except ValueError as error:
            return Refused(Failure("invalid", str(error)))
        waits = call.type is CallType.SYNC
        limits = run_limits(hold_max_s(self._account, call.function)) if waits else ACCEPT_LIMITS
        digest = await body_digest(call.payload)

        def judge(reply: Reply) -> Outcome:
            return fc_replies.outcome(call, reply, self._clock())

        async def attempt(keys: Keys) -> Outcome:
            headers = self._headers("POST", "InvokeFunction", target, keys, extra, digest)
            if TRACEPARENT in call.options:
                # Not signed: a proxy on the way may be part of the trace.
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

    async def stop(self, call: Call) -> bool:
        """
        Ask for the end of a running task (StopAsyncTask); True: it will be stopped.

        False as well where the cloud could not be asked.
        """
        reply = await self.manage(
            "StopAsyncTask",
            "PUT",
            ("functions", call.function, "async-tasks", call.task_id, "stop"),
            {} if call.qualifier is None else {"qualifier": call.qualifier},
        )
        if isinstance(reply, tuple):
            return 200 <= reply[0] < 300
        logger.warning(
            "stop_refused: cannot stop task %s of %s: %r", call.task_id, call.function, reply
        )
        return False

    async def manage(
        self,
        action: str,
        method: str,
        path: Sequence[str],
        query: Mapping[str, str] | None = None,
        body: bytes = b"",
    ) -> ManageReply:
        """
        Make one signed request to the management API, such as GetAsyncTask.

        *path* has the segments below the version, not escaped; *body*, if any, is JSON. Returns
        `(status, headers, body)` of any reply that is neither a throttle nor a denial.
        """
        try:
            target = self._at(path, query or {})
        except ValueError as error:
            return NotSent(Failure("invalid", str(error)))
        digest = await body_digest(body)

        async def attempt(keys: Keys) -> ManageReply:
            reply = await self._management.exchange(
                method,
                target.line,
                self._headers(method, action, target, keys, [_JSON], digest),
                body,
                limits=ACCEPT_LIMITS,
                body_max=TASKS_REPLY_MAX,
            )
            if isinstance(reply, (NotSent, Lost)):
                return reply
            if reply.status < 300 and reply.cut is not None:
                return reply.cut
            refusal = fc_replies.refused(reply, self._clock())
            return refusal or (reply.status, reply.headers, reply.body)

        return await self._keyring.signed(attempt)

    def reconfigure(self, account: AccountRules) -> None:
        """Take what can change while it is open: `requests_max`, and functions' `hold_max_s`."""
        self._account = account
        self._wire.resize(account.requests_max)

    async def aclose(self) -> None:
        """Close the connections; sends in flight are lost."""
        try:
            await self._keyring.aclose()
        finally:
            await asyncio.gather(self._wire.aclose(), self._management.aclose())

    def _make_target(self, function: str, qualifier: str | None) -> _Target:
        query = {} if qualifier is None else {"qualifier": qualifier}
        return self._at(("functions", function, "invocations"), query)

    def _at(self, path: Sequence[str], query: Mapping[str, str]) -> _Target:
        escaped = f"/{VERSION}/" + "/".join(signing.path_segment(segment) for segment in path)
        asked = signing.canonical_query(query.items())
        return _Target(f"{escaped}?{asked}" if asked else escaped, escaped, asked)

    def _headers(
        self,
        method: str,
        action: str,
        target: _Target,
        keys: Keys,
        extra: list[tuple[str, str]],
        digest: str,
    ) -> list[tuple[str, str]]:
        signed = [
            ("host", self._host),
            ("x-acs-action", action),
            ("x-acs-content-sha256", digest),
            ("x-acs-date", signing.acs3_time(int(self._clock()))),
            ("x-acs-signature-nonce", secrets.token_hex(16)),
            ("x-acs-version", VERSION),
            *extra,
        ]
        if keys.security_token:
            signed += [
                ("x-acs-accesskey-id", keys.access_key_id),
                ("x-acs-security-token", keys.security_token),
            ]
        signed.sort()
        canonical = signing.canonical_request(method, target.path, target.query, signed, digest)
        authorization = signing.acs3_authorization(
            keys.access_key_id,
            signing.signed_names(signed),
            signing.acs3_signature(keys.access_key_secret, canonical),
        )
        return [*signed, ("authorization", authorization)]


def default_endpoint(account_id: str, region: str) -> str:
    """Return the public endpoint of an account."""
    return f"https://{account_id}.{region}.fc.aliyuncs.com"


def _call_headers(call: Call) -> list[tuple[str, str]]:
    """Return the headers that say how to run the function. Raises `ValueError`."""
    headers = [_OCTETS, ("x-fc-invocation-type", _TYPES[call.type])]
    if call.type is CallType.ASYNC:
        headers.append(("x-fc-async-task-id", plain_value("the task id", call.task_id)))
    for name, value in call.options.items():
        if name in _TRACE:
            continue  # _trace_headers
        if name not in OPTIONS:
            raise ValueError(f"option {name!r} is none of {', '.join(OPTIONS)}")
        header, only = OPTIONS[name]
        if only is None or only is call.type:
            headers.append((header, plain_value(f"option {name!r}", value).strip()))
    return headers


def _trace_headers(call: Call) -> list[tuple[str, str]]:
    """Return what keeps the function in the trace: FC hands on its own header to it."""
    trace = carried(call.options[TRACEPARENT], call.options.get(TRACESTATE))
    return [*trace.items(), (SPAN_CONTEXT, jaeger(trace[TRACEPARENT]))] if trace else []
