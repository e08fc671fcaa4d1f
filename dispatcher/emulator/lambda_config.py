"""Lambda's wire format: what is configured. Limits, reservations, retries and destinations."""

import msgspec

from dispatcher.emulator.account import AccountState, AsyncConfig, FunctionState
from dispatcher.emulator.driver import Driver
from dispatcher.emulator.lambda_errors import LambdaError
from dispatcher.emulator.lambda_names import missing, resolve
from dispatcher.emulator.providers import LAMBDA
from dispatcher.emulator.refusals import FunctionMissing, QualifierMissing
from dispatcher.emulator.wire import Call, Reply, json_object, json_reply


class _Target(msgspec.Struct, frozen=True):
    destination: str | None = msgspec.field(name="Destination", default=None)


class _Destinations(msgspec.Struct):
    on_success: _Target = msgspec.field(name="OnSuccess", default=_Target())
    on_failure: _Target = msgspec.field(name="OnFailure", default=_Target())


class _EventInvokeConfig(msgspec.Struct):
    retries: int | None = msgspec.field(name="MaximumRetryAttempts", default=None)
    age_s: int | None = msgspec.field(name="MaximumEventAgeInSeconds", default=None)
    destinations: _Destinations | None = msgspec.field(name="DestinationConfig", default=None)


class LambdaConfig:
    """The operations beside Invoke."""

    def __init__(self, driver: Driver) -> None:
        self._driver = driver

    def handle(self, call: Call, account: AccountState, request_id: str) -> Reply:
        """Answer the request. Raises `LambdaError`."""
        match call.method, call.segments[0], tuple(part for part in call.segments[1:] if part):
            case "GET", "2016-08-19", ("account-settings",):
                fields: object = self._account_settings(account)
            case "GET", "2015-03-31", ("functions", name, "configuration"):
                fields = _configuration(self._function(call, account, name)[0])
            case "GET", "2015-03-31", ("functions", name):
                function, _ = self._function(call, account, name)
                fields = {"Configuration": _configuration(function), **_concurrency(function)}
            case "GET", "2019-09-30", ("functions", name, "concurrency"):
                reserved = self._function(call, account, name)[0].settings.reserved
                fields = {} if reserved is None else {"ReservedConcurrentExecutions": reserved}
            case "PUT" | "DELETE", "2017-10-31", ("functions", name, "concurrency"):
                return self._put_concurrency(call, account, name, request_id)
            case "GET", "2019-09-25", ("functions", name, "event-invoke-config", "list"):
                function, _ = self._function(call, account, name)
                fields = {
                    "FunctionEventInvokeConfigs": [
                        self._shown(function, qualifier, config)
                        for qualifier, config in _configs(function).items()
                    ]
                }
            case _, "2019-09-25", ("functions", name, "event-invoke-config"):
                return self._event_invoke_config(call, account, name, request_id)
            case _:
                raise LambdaError(
                    404,
                    "UnknownOperationException",
                    f"no such operation: {call.method} {call.path}",
                )
        return json_reply(200, fields, {"x-amzn-RequestId": request_id})

    def _function(
        self, call: Call, account: AccountState, text: str
    ) -> tuple[FunctionState, str | None]:
        name, qualifier = resolve(call, account, text)
        try:
            return self._driver.cloud.find(account, name, qualifier), qualifier
        except (FunctionMissing, QualifierMissing) as error:
            raise missing(account, name, qualifier) from error

    def _account_settings(self, account: AccountState) -> dict[str, object]:
        return {
            "AccountLimit": {
                "TotalCodeSize": 80530636800,
                "CodeSizeUnzipped": 262144000,
                "CodeSizeZipped": 52428800,
                "ConcurrentExecutions": account.fleet.quota,
                "UnreservedConcurrentExecutions": account.fleet.unreserved,
            },
            "AccountUsage": {"TotalCodeSize": 0, "FunctionCount": len(account.functions)},
        }

    def _put_concurrency(
        self, call: Call, account: AccountState, name: str, request_id: str
    ) -> Reply:
        function, _ = self._function(call, account, name)
        reserved = None
        if call.method == "PUT":
            asked = (json_object(call.body) or {}).get("ReservedConcurrentExecutions")
            if not isinstance(asked, int) or asked < 0:
                raise _invalid("ReservedConcurrentExecutions must be a number of at least 0")
            if asked - (function.settings.reserved or 0) > account.fleet.unreserved:
                raise _invalid(
                    "Specified ReservedConcurrentExecutions for function decreases account's "
                    "UnreservedConcurrentExecution below its minimum value of [0]."
                )
            reserved = asked
        changed = msgspec.structs.replace(function.settings, reserved=reserved)
        account.fleet.change_function(function.pool, changed, self._driver.now())
        if reserved is None:
            return Reply(204, headers={"x-amzn-RequestId": request_id})
        fields = {"ReservedConcurrentExecutions": reserved}
        return json_reply(200, fields, {"x-amzn-RequestId": request_id})

    def _event_invoke_config(
        self, call: Call, account: AccountState, name: str, request_id: str
    ) -> Reply:
        function, asked = self._function(call, account, name)
        # Unqualified calls run $LATEST, and it is its configuration that they follow.
        qualifier = None if asked == "$LATEST" else asked
        headers = {"x-amzn-RequestId": request_id}
        existing = function.configs.get(qualifier)
        if existing is None and qualifier is None and _is_configured(function):
            existing = function.default_config()
        if call.method in {"PUT", "POST"}:
            # Put replaces everything, Update changes what it names.
            base = existing if call.method == "POST" else None
            if call.method == "POST" and existing is None:
                raise _no_config(function, asked)
            config = self._merged(call, base)
            function.configs[qualifier] = config
            return json_reply(200, self._shown(function, qualifier, config), headers)
        if existing is None:
            raise _no_config(function, asked)
        if call.method == "DELETE":
            function.configs.pop(qualifier, None)
            return Reply(204, headers=headers)
        if call.method != "GET":
            raise LambdaError(405, "UnknownOperationException", f"no such method: {call.method}")
        return json_reply(200, self._shown(function, qualifier, existing), headers)

    def _merged(self, call: Call, base: AsyncConfig | None) -> AsyncConfig:
        try:
            asked = msgspec.json.decode(call.body or b"{}", type=_EventInvokeConfig)
        except msgspec.DecodeError as error:
            raise _invalid(str(error)) from error
        if asked.retries is not None and not 0 <= asked.retries <= 2:
            raise _invalid("MaximumRetryAttempts must be from 0 to 2")
        if asked.age_s is not None and not 60 <= asked.age_s <= 21600:
            raise _invalid("MaximumEventAgeInSeconds must be from 60 to 21600")
        now = self._driver.now()
        start = base or AsyncConfig(
            retry_attempts_max=LAMBDA.retry_attempts_max, event_age_max_s=LAMBDA.event_age_max_s
        )
        targets = asked.destinations
        return msgspec.structs.replace(
            start,
            retry_attempts_max=start.retry_attempts_max if asked.retries is None else asked.retries,
            event_age_max_s=start.event_age_max_s if asked.age_s is None else float(asked.age_s),
            on_success=start.on_success if targets is None else targets.on_success.destination,
            on_failure=start.on_failure if targets is None else targets.on_failure.destination,
            created_at=start.created_at or now,
            modified_at=now,
        )

    def _shown(
        self, function: FunctionState, qualifier: str | None, config: AsyncConfig
    ) -> dict[str, object]:
        modified = config.modified_at or 0.0
        destinations = {}
        if config.on_success is not None:
            destinations["OnSuccess"] = {"Destination": config.on_success}
        if config.on_failure is not None:
            destinations["OnFailure"] = {"Destination": config.on_failure}
        return {
            "LastModified": round(self._driver.cloud.epoch_s + modified, 3),
            "FunctionArn": function.arn(qualifier or "$LATEST"),
            "MaximumRetryAttempts": config.retry_attempts_max,
            "MaximumEventAgeInSeconds": int(config.event_age_max_s),
            "DestinationConfig": destinations,
        }


def _configuration(function: FunctionState) -> dict[str, object]:
    return {
        "FunctionName": function.name,
        "FunctionArn": function.arn(),
        "Runtime": "python3.12",
        "Handler": "handler.handler",
        "Timeout": max(1, round(function.settings.timeout_s)),
        "MemorySize": 128,
        "Version": "$LATEST",
        "State": "Active",
        "LastUpdateStatus": "Successful",
        "PackageType": "Zip",
    }


def _concurrency(function: FunctionState) -> dict[str, object]:
    reserved = function.settings.reserved
    if reserved is None:
        return {}
    return {"Concurrency": {"ReservedConcurrentExecutions": reserved}}


def _is_configured(function: FunctionState) -> bool:
    settings = function.settings
    given = (
        settings.on_success,
        settings.on_failure,
        settings.max_async_retry_attempts,
        settings.max_async_event_age_s,
    )
    return any(value is not None for value in given)


def _configs(function: FunctionState) -> dict[str | None, AsyncConfig]:
    """Return all configurations, the one of the settings too unless it was replaced."""
    if None in function.configs or not _is_configured(function):
        return function.configs
    return {None: function.default_config(), **function.configs}


def _no_config(function: FunctionState, qualifier: str | None) -> LambdaError:
    return LambdaError(
        404,
        "ResourceNotFoundException",
        f"The function {function.arn(qualifier or '$LATEST')} doesn't have an EventInvokeConfig",
        key="Message",
    )


def _invalid(message: str) -> LambdaError:
    return LambdaError(400, "InvalidParameterValueException", message)
