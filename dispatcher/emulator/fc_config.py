"""FC's wire format: what is configured. Asynchronous configuration, reservations, functions."""

from datetime import UTC, datetime

import msgspec

from dispatcher.emulator.account import AccountState, AsyncConfig, FunctionState
from dispatcher.emulator.driver import Driver
from dispatcher.emulator.fc_dialect import FC3, Dialect, FcError, invalid
from dispatcher.emulator.providers import FC
from dispatcher.emulator.wire import Call, Reply, json_object, json_reply

AGE_MAX_S = 604800
ATTEMPTS_MAX = 8


class _Target(msgspec.Struct, frozen=True):
    destination: str | None = None


class _Destinations(msgspec.Struct, rename="camel"):
    on_success: _Target | None = None
    on_failure: _Target | None = None


class _Input(msgspec.Struct):
    task_mode: bool | None = msgspec.field(name="asyncTask", default=None)
    stateful: bool | None = msgspec.field(name="statefulInvocation", default=None)
    attempts: int | None = msgspec.field(name="maxAsyncRetryAttempts", default=None)
    age_s: int | None = msgspec.field(name="maxAsyncEventAgeInSeconds", default=None)
    destinations: _Destinations | None = msgspec.field(name="destinationConfig", default=None)


class FcConfig:
    """The operations beside invocations and tasks."""

    def __init__(self, driver: Driver) -> None:
        self._driver = driver

    def handle(  # noqa: PLR0911 - a table of routes
        self,
        call: Call,
        account: AccountState,
        function: FunctionState,
        dialect: Dialect,
        qualifier: str | None,
        rest: tuple[str, ...],
        request_id: str,
    ) -> Reply:
        """Answer a request on a function. Raises `FcError`."""
        headers = {"X-Fc-Request-Id": request_id}
        match call.method, rest:
            case "GET", ():
                return json_reply(200, self._shown_function(function), headers)
            case "GET", ("async-invoke-config",):
                config = function.config(qualifier)
                return json_reply(200, self._shown(function, qualifier, config, dialect), headers)
            case "PUT", ("async-invoke-config",):
                config = self._put(call, function, qualifier)
                return json_reply(200, self._shown(function, qualifier, config, dialect), headers)
            case "DELETE", ("async-invoke-config",):
                function.configs.pop(qualifier, None)
                return Reply(204, headers=headers)
            case ("GET", ("async-invoke-configs",)) if dialect is not FC3:
                return json_reply(200, {"configs": self._all(function, dialect)}, headers)
            case "GET", ("concurrency",):
                return json_reply(200, _concurrency(function), headers)
            case "PUT", ("concurrency",):
                return self._put_concurrency(call, account, function, headers)
            case "DELETE", ("concurrency",):
                self._reserve(account, function, None)
                return Reply(204, headers=headers)
            case _:
                raise _no_such_operation(call)

    def handle_account(
        self,
        call: Call,
        account: AccountState,
        dialect: Dialect,
        rest: tuple[str, ...],
        request_id: str,
    ) -> Reply:
        """Answer a request that is on no function. Raises `FcError`."""
        if call.method != "GET" or rest != ("async-invoke-configs",):
            raise _no_such_operation(call)
        asked = call.query.get("functionName")
        configs = [
            config
            for function in account.functions.values()
            if asked in {None, "", function.name}
            for config in self._all(function, dialect)
        ]
        return json_reply(200, {"configs": configs}, {"X-Fc-Request-Id": request_id})

    def _put(self, call: Call, function: FunctionState, qualifier: str | None) -> AsyncConfig:
        try:
            asked = msgspec.json.decode(call.body or b"{}", type=_Input)
        except msgspec.DecodeError as error:
            raise invalid(str(error)) from error
        attempts = FC.retry_attempts_max if asked.attempts is None else asked.attempts
        age_s = FC.event_age_max_s if asked.age_s is None else float(asked.age_s)
        if not 0 <= attempts <= ATTEMPTS_MAX:
            raise invalid(f"maxAsyncRetryAttempts must be from 0 to {ATTEMPTS_MAX}")
        if not 1 <= age_s <= AGE_MAX_S:
            raise invalid(f"maxAsyncEventAgeInSeconds must be from 1 to {AGE_MAX_S}")
        now, existing = self._driver.now(), function.configs.get(qualifier)
        targets = asked.destinations or _Destinations()
        config = AsyncConfig(
            retry_attempts_max=attempts,
            event_age_max_s=age_s,
            on_success=targets.on_success.destination if targets.on_success else None,
            on_failure=targets.on_failure.destination if targets.on_failure else None,
            async_task=bool(asked.task_mode or asked.stateful),
            created_at=now if existing is None else existing.created_at,
            modified_at=now,
        )
        function.configs[qualifier] = config
        return config

    def _all(self, function: FunctionState, dialect: Dialect) -> list[dict[str, object]]:
        return [
            self._shown(function, qualifier, config, dialect)
            for qualifier, config in function.configs.items()
        ]

    def _shown(
        self,
        function: FunctionState,
        qualifier: str | None,
        config: AsyncConfig,
        dialect: Dialect,
    ) -> dict[str, object]:
        destinations: dict[str, object] = {}
        if config.on_success is not None:
            destinations["onSuccess"] = {"destination": config.on_success}
        if config.on_failure is not None:
            destinations["onFailure"] = {"destination": config.on_failure}
        return {
            dialect.task_flag: config.async_task,
            "maxAsyncRetryAttempts": config.retry_attempts_max,
            "maxAsyncEventAgeInSeconds": int(config.event_age_max_s),
            "destinationConfig": destinations,
            "createdTime": self._moment(config.created_at),
            "lastModifiedTime": self._moment(config.modified_at),
            "functionArn": function.arn(qualifier or "LATEST"),
        }

    def _shown_function(self, function: FunctionState) -> dict[str, object]:
        settings = function.settings
        return {
            "functionName": function.name,
            "functionArn": function.arn(),
            "runtime": "python3.12",
            "handler": "index.handler",
            "instanceConcurrency": settings.instance_concurrency,
            "timeout": max(1, round(settings.timeout_s)),
            "cpu": settings.vcpu,
            "memorySize": 128,
            "state": "Active",
        }

    def _put_concurrency(
        self, call: Call, account: AccountState, function: FunctionState, headers: dict[str, str]
    ) -> Reply:
        asked = (json_object(call.body) or {}).get("reservedConcurrency")
        if not isinstance(asked, int) or asked < 0:
            raise invalid("reservedConcurrency must be a number of at least 0")
        if asked - (function.settings.reserved or 0) > account.fleet.unreserved:
            raise FcError(400, "LimitExceededError", "more is reserved than the account has")
        self._reserve(account, function, asked)
        return json_reply(200, _concurrency(function), headers)

    def _reserve(
        self, account: AccountState, function: FunctionState, reserved: int | None
    ) -> None:
        changed = msgspec.structs.replace(function.settings, reserved=reserved)
        account.fleet.change_function(function.pool, changed, self._driver.now())

    def _moment(self, at: float | None) -> str:
        """Return a time as the API writes it; the epoch of the emulator where there is none."""
        moment = datetime.fromtimestamp(self._driver.cloud.epoch_s + (at or 0.0), UTC)
        return f"{moment:%Y-%m-%dT%H:%M:%SZ}"


def _concurrency(function: FunctionState) -> dict[str, object]:
    reserved = function.settings.reserved
    if reserved is None:
        return {"functionArn": function.arn()}
    return {"functionArn": function.arn(), "reservedConcurrency": reserved}


def _no_such_operation(call: Call) -> FcError:
    return FcError(400, "PathNotSupported", f"no such operation: {call.method} {call.path}")
