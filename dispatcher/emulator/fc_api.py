"""
FC's wire format: invocations, by the API 2023-03-30 and by the older 2021-04-06 and 2016-08-15.

A function of FC 2.0 is known to the 3.0 API as `service$function`; so it is here.
"""

import base64
import re
from typing import Final

from dispatcher.emulator.access import Access, Visitor
from dispatcher.emulator.account import AccountState, FunctionState
from dispatcher.emulator.driver import Driver
from dispatcher.emulator.faults import Subject
from dispatcher.emulator.fc_config import FcConfig
from dispatcher.emulator.fc_dialect import (
    DIALECTS,
    FC3,
    TASK_EXISTS,
    Dialect,
    FcError,
    invalid,
    throttled,
    unsigned,
)
from dispatcher.emulator.fc_tasks import FcTasks
from dispatcher.emulator.invocation import Invocation
from dispatcher.emulator.records import response_payload
from dispatcher.emulator.refusals import (
    FunctionMissing,
    PayloadTooLarge,
    QualifierMissing,
    TaskExists,
    Throttled,
)
from dispatcher.emulator.settings import Fault
from dispatcher.emulator.signatures import SignatureRefused
from dispatcher.emulator.wire import Call, Reply

_TASK_ID = re.compile(r"[A-Za-z_][A-Za-z0-9_-]{0,127}")
_NAME = re.compile(r"[A-Za-z0-9_$-]{1,256}")
DELAY_MAX_S: Final = 3600


class _Request:
    """A request with its function taken out of the path. *rest*: what follows the function."""

    def __init__(self, call: Call) -> None:
        self.call = call
        version, *rest = call.segments
        self.dialect: Dialect = DIALECTS[version]
        self.qualifier: str | None = call.query.get("qualifier") or None
        self.function: str | None = None
        if self.dialect is not FC3 and rest[:1] == ["services"] and rest[2:3] == ["functions"]:
            service, dot, qualifier = rest[1].partition(".")
            if dot:
                self.qualifier = qualifier
            if len(rest) > 3:
                self.function = f"{service}${rest[3]}"
            rest = rest[4:]
        elif self.dialect is FC3 and rest[:1] == ["functions"] and len(rest) > 1:
            self.function = rest[1]
            rest = rest[2:]
        self.rest: tuple[str, ...] = tuple(rest)
        if self.qualifier == "LATEST":
            self.qualifier = None


class FcApi:
    """Answers what comes to an FC endpoint."""

    def __init__(self, driver: Driver) -> None:
        accounts = driver.cloud.accounts.values()
        self._driver = driver
        self._tasks = FcTasks(driver)
        self._config = FcConfig(driver)
        self.access = Access(
            (account for account in accounts if account.settings.provider == "aliyun-fc"),
            schemes=frozenset({"ACS3-HMAC-SHA256", "FC"}),
        )

    def owns(self, call: Call) -> bool:
        """Return whether this is a request for FC."""
        segments = call.segments
        return bool(self.access) and len(segments) > 1 and segments[0] in DIALECTS

    def subject(self, call: Call, visitor: Visitor) -> Subject:
        """Return what the request is about."""
        request = _Request(call)
        account = visitor.account.name
        if request.rest == ("invocations",):
            return Subject(
                operation="invoke",
                account=account,
                function=request.function,
                asynchronous=_asynchronous(call),
            )
        tasks = request.rest[:1] == (request.dialect.tasks_segment,)
        operation = "tasks" if tasks else "config"
        return Subject(operation=operation, account=account, function=request.function)

    async def handle(self, call: Call, visitor: Visitor) -> Reply:
        """Answer the request."""
        request = _Request(call)
        account, dialect = visitor.account, request.dialect
        request_id = self._driver.cloud.new_request_id()
        try:
            self.access.check(visitor, call, self._driver.wall())
            if request.function is None:
                return self._config.handle_account(call, account, dialect, request.rest, request_id)
            if request.rest == ("invocations",) and call.method == "POST":
                return await self._invoke(request, account)
            function = self._function(account, request.function, request.qualifier)
            if request.rest[:1] == (dialect.tasks_segment,):
                return self._tasks.handle(
                    call,
                    account,
                    function,
                    dialect,
                    qualifier=request.qualifier,
                    rest=request.rest[1:],
                    request_id=request_id,
                )
            return self._config.handle(
                call, account, function, dialect, request.qualifier, request.rest, request_id
            )
        except SignatureRefused as error:
            return unsigned(error).reply(dialect, request_id)
        except FcError as error:
            return error.reply(dialect, request_id)

    def fault(self, rule: Fault, call: Call) -> Reply:
        """Return the error that a fault rule asks for, in the shape of the call's version."""
        dialect = DIALECTS[call.segments[0]]
        if rule.kind == "forbidden":
            error = FcError(403, rule.code or "AccessDenied", "the emulator was told to refuse")
        elif rule.kind == "throttle":
            error = throttled(rule.code or "ResourceExhausted", rule.retry_after_s)
        else:
            status = rule.status or 500
            code = rule.code or ("InternalServerError" if status == 500 else "ServiceUnavailable")
            error = FcError(status, code, "the emulator was told to fail")
        return error.reply(dialect, self._driver.cloud.new_request_id())

    async def _invoke(self, request: _Request, account: AccountState) -> Reply:
        call = request.call
        assert request.function is not None, call
        try:
            self._driver.cloud.admit(account, self._driver.now())
        except Throttled as error:
            raise throttled(error.code) from error
        function = self._function(account, request.function, request.qualifier)
        kind = call.header("x-fc-invocation-type")
        if kind.lower() not in {"", "sync", "async"}:
            raise invalid(f"x-fc-invocation-type must be Sync or Async, got {kind!r}")
        asynchronous = _asynchronous(call)
        task_id = call.header(request.dialect.task_header) or None
        if task_id is not None and not _TASK_ID.fullmatch(task_id):
            raise invalid(f"{request.dialect.task_header} {task_id!r} is not a task id")
        invocation = self._accept(
            request,
            account,
            function,
            asynchronous=asynchronous,
            task_id=task_id,
            delay_s=_delay_s(call) if asynchronous else 0,
        )
        if not asynchronous:
            await self._driver.answered(invocation)
            return _answer(invocation, log=call.header("x-fc-log-type") == "Tail")
        self._driver.pump()
        # No content type: @alicloud/fc2 takes an empty JSON body for broken JSON.
        return Reply(
            202,
            headers={
                "X-Fc-Request-Id": invocation.request_id,
                request.dialect.task_header_in_reply: invocation.task_id or "",
            },
        )

    def _accept(
        self,
        request: _Request,
        account: AccountState,
        function: FunctionState,
        *,
        asynchronous: bool,
        task_id: str | None,
        delay_s: int,
    ) -> Invocation:
        try:
            return self._driver.cloud.invoke(
                function,
                account,
                self._driver.now(),
                payload=request.call.body,
                asynchronous=asynchronous,
                qualifier=request.qualifier,
                task_id=task_id,
                delay_s=delay_s,
            )
        except PayloadTooLarge as error:
            raise FcError(
                400,
                "EntityTooLarge",
                f"payload size exceeds maximum allowed size ({error.size_max} bytes)",
            ) from error
        except TaskExists as error:
            raise FcError(409, TASK_EXISTS, f"task {error} already exists") from error
        except Throttled as error:
            raise throttled(error.code) from error

    def _function(self, account: AccountState, name: str, qualifier: str | None) -> FunctionState:
        if not _NAME.fullmatch(name):
            raise invalid(f"{name!r} is not the name of a function")
        try:
            return self._driver.cloud.find(account, name, qualifier)
        except FunctionMissing as error:
            message = f"function '{name}' does not exist"
            raise FcError(404, "FunctionNotFound", message) from error
        except QualifierMissing as error:
            message = f"version or alias '{qualifier}' of function '{name}' does not exist"
            code = "VersionNotFound" if (qualifier or "").isdigit() else "AliasNotFound"
            raise FcError(404, code, message) from error


def _asynchronous(call: Call) -> bool:
    return call.header("x-fc-invocation-type").lower() == "async"


def _delay_s(call: Call) -> int:
    text = call.header("x-fc-async-delay")
    if not text:
        return 0
    if not text.isascii() or not text.isdigit() or int(text) > DELAY_MAX_S:
        raise invalid(f"x-fc-async-delay must be from 0 to {DELAY_MAX_S} seconds, got {text!r}")
    return int(text)


def _answer(invocation: Invocation, *, log: bool) -> Reply:
    took_ms = invocation.duration_s * 1000
    headers = {
        "Content-Type": "application/octet-stream",
        "X-Fc-Request-Id": invocation.request_id,
        "X-Fc-Code-Checksum": "1234567890123456789",
        "X-Fc-Instance-Id": invocation.instance_id,
        "X-Fc-Invocation-Duration": str(round(took_ms)),
        "X-Fc-Max-Memory-Usage": "32",
        "X-Fc-Invocation-Service-Version": invocation.qualifier or "LATEST",
    }
    if invocation.failure is not None:
        headers["X-Fc-Error-Type"] = f"{invocation.failure.kind}InvocationError"
    if log:
        request_id = invocation.request_id
        lines = (
            f"FC Invoke Start RequestId: {request_id}\nFC Invoke End RequestId: {request_id}\n\n"
            f"Duration: {took_ms:.2f} ms, Billed Duration: {int(took_ms) + 1} ms, "
            "Memory Size: 128 MB, Max Memory Used: 32.00 MB"
        )
        headers["X-Fc-Log-Result"] = base64.b64encode(lines.encode()).decode()
    return Reply(200, response_payload(invocation), headers)
