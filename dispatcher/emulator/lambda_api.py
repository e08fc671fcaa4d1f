"""
Lambda's wire format: Invoke.

After the service model of botocore, lambda/2015-03-31, and docs.aws.amazon.com/lambda/latest/api.
"""

import base64
import binascii
from typing import Final

import msgspec

from dispatcher.emulator.access import Access, Visitor
from dispatcher.emulator.account import AccountState, FunctionState
from dispatcher.emulator.driver import Driver
from dispatcher.emulator.faults import Subject
from dispatcher.emulator.invocation import Invocation
from dispatcher.emulator.lambda_config import LambdaConfig
from dispatcher.emulator.lambda_errors import LambdaError, throttled, unsigned
from dispatcher.emulator.lambda_names import NameRefused, missing, parse_name, resolve
from dispatcher.emulator.records import response_payload
from dispatcher.emulator.refusals import (
    FunctionMissing,
    PayloadTooLarge,
    QualifierMissing,
    Throttled,
)
from dispatcher.emulator.settings import Fault
from dispatcher.emulator.signatures import SignatureRefused
from dispatcher.emulator.wire import Call, Reply, is_json

API_VERSIONS: Final = frozenset(
    {"2014-11-13", "2015-03-31", "2016-08-19", "2017-10-31", "2019-09-25", "2019-09-30"}
)
CLIENT_CONTEXT_MAX: Final = 3583
INVOKE_ASYNC_MAX: Final = 256 * 1024
RETRY_AFTER_S: Final = "1"


class LambdaApi:
    """Answers what comes to a Lambda endpoint."""

    def __init__(self, driver: Driver) -> None:
        accounts = driver.cloud.accounts.values()
        self._driver = driver
        self._config = LambdaConfig(driver)
        self.access = Access(
            (account for account in accounts if account.settings.provider == "aws-lambda"),
            schemes=frozenset({"AWS4-HMAC-SHA256"}),
        )

    def owns(self, call: Call) -> bool:
        """Return whether this is a request for Lambda."""
        segments = call.segments
        return bool(self.access) and len(segments) > 1 and segments[0] in API_VERSIONS

    def subject(self, call: Call, visitor: Visitor) -> Subject:
        """Return what the request is about."""
        segments = call.segments
        function = None
        if len(segments) > 2:
            try:
                function = parse_name(segments[2]).function
            except NameRefused:
                function = None
        if segments[3:] not in {("invocations",), ("invoke-async",), ("invoke-async", "")}:
            return Subject(operation="config", account=visitor.account.name, function=function)
        return Subject(
            operation="invoke",
            account=visitor.account.name,
            function=function,
            asynchronous=segments[3] == "invoke-async"
            or call.header("X-Amz-Invocation-Type") == "Event",
        )

    async def handle(self, call: Call, visitor: Visitor) -> Reply:
        """Answer the request."""
        request_id = self._driver.cloud.new_request_id()
        try:
            self.access.check(visitor, call, self._driver.wall())
            match call.method, call.segments[0], call.segments[1:]:
                case "POST", "2015-03-31", ("functions", name, "invocations"):
                    return await self._invoke(call, visitor.account, name)
                case "POST", "2014-11-13", ("functions", name, "invoke-async", *_):
                    return self._invoke_async(call, visitor.account, name)
                case _:
                    return self._config.handle(call, visitor.account, request_id)
        except SignatureRefused as error:
            return unsigned(error).reply(request_id)
        except LambdaError as error:
            return error.reply(request_id)

    def fault(self, rule: Fault, call: Call) -> Reply:  # noqa: ARG002 - FC's needs it
        """Return the error that a fault rule asks for, in Lambda's shape."""
        request_id = self._driver.cloud.new_request_id()
        if rule.kind == "forbidden":
            code = rule.code or "AccessDeniedException"
            return LambdaError(403, code, "the emulator was told to refuse").reply(request_id)
        if rule.kind == "throttle":
            reason = rule.code or "ConcurrentInvocationLimitExceeded"
            retry_after = None if rule.retry_after_s is None else f"{rule.retry_after_s:g}"
            return throttled(reason, retry_after).reply(request_id)
        status = rule.status or 500
        code = rule.code or ("ServiceException" if status == 500 else "ServiceUnavailableException")
        message = "the emulator was told to fail"
        return LambdaError(status, code, message, key="Message", kind="Service").reply(request_id)

    async def _invoke(self, call: Call, account: AccountState, name: str) -> Reply:
        self._admit(account)
        kind = call.header("X-Amz-Invocation-Type") or "RequestResponse"
        if kind not in {"Event", "RequestResponse", "DryRun"}:
            raise LambdaError(
                400,
                "InvalidParameterValueException",
                f"Value '{kind}' at 'invocationType' failed to satisfy constraint: Member must "
                "satisfy enum value set: [Event, RequestResponse, DryRun]",
            )
        function, qualifier = self._function(call, account, name)
        _check_client_context(call)
        if kind == "DryRun":
            return Reply(204, headers={"x-amzn-RequestId": self._driver.cloud.new_request_id()})
        asynchronous = kind == "Event"
        invocation = self._accept(call, account, function, qualifier, asynchronous=asynchronous)
        if asynchronous:
            self._driver.pump()
            return Reply(202, headers={"x-amzn-RequestId": invocation.request_id})
        await self._driver.answered(invocation)
        return _answer(invocation, log=call.header("X-Amz-Log-Type") == "Tail")

    def _invoke_async(self, call: Call, account: AccountState, name: str) -> Reply:
        """The deprecated InvokeAsync: an Event without a qualifier, of at most 256 KiB."""
        self._admit(account)
        function, _ = self._function(call, account, name)
        if len(call.body) > INVOKE_ASYNC_MAX:
            raise _too_large(INVOKE_ASYNC_MAX)
        invocation = self._accept(call, account, function, None, asynchronous=True)
        self._driver.pump()
        return Reply(202, headers={"x-amzn-RequestId": invocation.request_id})

    def _admit(self, account: AccountState) -> None:
        try:
            self._driver.cloud.admit(account, self._driver.now())
        except Throttled as error:
            raise throttled(error.code, RETRY_AFTER_S) from error

    def _function(
        self, call: Call, account: AccountState, text: str
    ) -> tuple[FunctionState, str | None]:
        name, asked = resolve(call, account, text)
        try:
            return self._driver.cloud.find(account, name, asked), asked
        except (FunctionMissing, QualifierMissing) as error:
            raise missing(account, name, asked) from error

    def _accept(
        self,
        call: Call,
        account: AccountState,
        function: FunctionState,
        qualifier: str | None,
        *,
        asynchronous: bool,
    ) -> Invocation:
        rules = account.rules
        size_max = rules.payload_async_max if asynchronous else rules.payload_sync_max
        # Before the text is judged: a body that is too large was not read to its end.
        if len(call.body) <= size_max and call.body and not is_json(call.body):
            raise LambdaError(
                400,
                "InvalidRequestContentException",
                "Could not parse request body into json: the payload is not JSON in UTF-8",
            )
        try:
            return self._driver.cloud.invoke(
                function,
                account,
                self._driver.now(),
                payload=call.body,
                asynchronous=asynchronous,
                qualifier=qualifier,
            )
        except PayloadTooLarge as error:
            raise _too_large(error.size_max) from error
        except Throttled as error:
            raise throttled(error.code, RETRY_AFTER_S) from error


def _answer(invocation: Invocation, *, log: bool) -> Reply:
    body = response_payload(invocation)
    headers = {
        "Content-Type": "application/json",
        "x-amzn-RequestId": invocation.request_id,
        "X-Amz-Executed-Version": invocation.qualifier or "$LATEST",
    }
    if invocation.failure is not None:
        # Since 2019 Lambda says "Unhandled" of every error that a runtime reports.
        headers["X-Amz-Function-Error"] = "Unhandled"
    elif len(body) > invocation.account.rules.payload_sync_max:
        headers["X-Amz-Function-Error"] = "Unhandled"
        body = msgspec.json.encode(
            {
                "errorMessage": f"Response payload size ({len(body)} bytes) exceeded maximum "
                "allowed payload size (6291556 bytes).",
                "errorType": "Function.ResponseSizeTooLarge",
            }
        )
    if log:
        headers["X-Amz-Log-Result"] = base64.b64encode(_log_tail(invocation)).decode()
    return Reply(200, body, headers)


def _log_tail(invocation: Invocation) -> bytes:
    request_id, took_ms = invocation.request_id, invocation.duration_s * 1000
    return (
        f"START RequestId: {request_id} Version: {invocation.qualifier or '$LATEST'}\n"
        f"END RequestId: {request_id}\n"
        f"REPORT RequestId: {request_id}\tDuration: {took_ms:.2f} ms\t"
        f"Billed Duration: {int(took_ms) + 1} ms\tMemory Size: 128 MB\tMax Memory Used: 32 MB\t\n"
    ).encode()


def _check_client_context(call: Call) -> None:
    context = call.header("X-Amz-Client-Context")
    if len(context) > CLIENT_CONTEXT_MAX:
        raise LambdaError(
            400,
            "InvalidRequestContentException",
            f"Client context must be no more than {CLIENT_CONTEXT_MAX} bytes when base64-encoded",
        )
    try:
        base64.b64decode(context, validate=True)
    except (binascii.Error, ValueError) as error:
        raise LambdaError(
            400, "InvalidRequestContentException", "Client context must be valid base64"
        ) from error


def _too_large(size_max: int) -> LambdaError:
    return LambdaError(
        413,
        "RequestTooLargeException",
        f"Request must be smaller than {size_max} bytes for the InvokeFunction operation",
    )
