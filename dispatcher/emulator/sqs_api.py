"""
The wire format of SQS, as far as destination queues need it: JSON protocol 1.0.

After the service model of botocore, sqs/2012-11-05. The older query protocol is not spoken.
"""

import re
from collections.abc import Callable, Mapping
from typing import Any, Final

import msgspec

from dispatcher.emulator.access import Access, Visitor
from dispatcher.emulator.account import AccountState
from dispatcher.emulator.driver import Driver
from dispatcher.emulator.faults import Subject
from dispatcher.emulator.queues import MESSAGE_BYTES_MAX, Message, Queue, QueueFull
from dispatcher.emulator.settings import Fault as FaultRule
from dispatcher.emulator.signatures import Fault, SignatureRefused
from dispatcher.emulator.wire import Call, Reply

_TARGET = "AmazonSQS."
_TYPE = "application/x-amz-json-1.0"
_NAME = re.compile(r"[A-Za-z0-9_-]{1,80}")
_BATCH_MAX: Final = 10
_WAIT_MAX_S: Final = 20
_QUEUES_MAX: Final = 1000
_NUMBERS: Final = {
    "VisibilityTimeout": ("visibility_s", 0, 43200),
    "ReceiveMessageWaitTimeSeconds": ("wait_s", 0, 20),
    "DelaySeconds": ("delay_s", 0, 900),
    "MessageRetentionPeriod": ("retention_s", 60, 1209600),
}
"""Queue attributes that this queue obeys, with their ranges."""

Fields = dict[str, Any]


class SqsError(Exception):
    """One modelled error. *code* is its name in the JSON protocol, *query_code* the older one."""

    def __init__(
        self, code: str, message: str, status: int = 400, query_code: str | None = None
    ) -> None:
        super().__init__(message)
        self.status = status
        self.code = code
        self.query_code = query_code or code

    def reply(self, request_id: str) -> Reply:
        """Return the reply that tells it."""
        namespace = "com.amazonaws.sqs" if self.status == 400 else "com.amazon.coral.service"
        fields = {"__type": f"{namespace}#{self.code}", "message": str(self)}
        side = "Sender" if self.status < 500 else "Receiver"
        headers = {
            "Content-Type": _TYPE,
            "x-amzn-RequestId": request_id,
            "x-amzn-query-error": f"{self.query_code};{side}",
        }
        return Reply(self.status, msgspec.json.encode(fields), headers)


class SqsApi:
    """Answers what comes to an SQS endpoint."""

    def __init__(self, driver: Driver) -> None:
        accounts = driver.cloud.accounts.values()
        self._driver = driver
        self.access = Access(
            (account for account in accounts if account.settings.provider == "aws-lambda"),
            schemes=frozenset({"AWS4-HMAC-SHA256"}),
        )

    def owns(self, call: Call) -> bool:
        """Return whether this is a request for SQS."""
        return bool(self.access) and call.header("X-Amz-Target").startswith(_TARGET)

    def subject(self, call: Call, visitor: Visitor) -> Subject:  # noqa: ARG002 - others need it
        """Return what the request is about."""
        return Subject(operation="queue", account=visitor.account.name)

    async def handle(self, call: Call, visitor: Visitor) -> Reply:
        """Answer the request."""
        request_id = self._driver.cloud.new_request_id()
        try:
            self._check(call, visitor)
            try:
                fields = msgspec.json.decode(call.body or b"{}", type=Fields)
            except (msgspec.DecodeError, UnicodeDecodeError) as error:
                raise SqsError("SerializationException", "not a JSON object") from error
            operation = call.header("X-Amz-Target").removeprefix(_TARGET)
            answer = await self._operate(operation, fields, call, visitor.account)
        except SqsError as error:
            return error.reply(request_id)
        headers = {"Content-Type": _TYPE, "x-amzn-RequestId": request_id}
        return Reply(200, b"" if answer is None else msgspec.json.encode(answer), headers)

    def fault(self, rule: FaultRule, call: Call) -> Reply:  # noqa: ARG002 - FC's needs it
        """Return the error that a fault rule asks for, in the shape of SQS."""
        status, code = rule.status or 500, rule.code or "InternalFailure"
        if rule.kind == "forbidden":
            status, code = 403, rule.code or "AccessDeniedException"
        elif rule.kind == "throttle":
            status, code = 400, rule.code or "RequestThrottled"
        error = SqsError(code, "the emulator was told to fail", status)
        return error.reply(self._driver.cloud.new_request_id())

    def _check(self, call: Call, visitor: Visitor) -> None:
        try:
            self.access.check(visitor, call, self._driver.wall())
        except SignatureRefused as error:
            match error.fault:
                case Fault.MISSING:
                    code = "MissingAuthenticationTokenException"
                case Fault.UNKNOWN_KEY | Fault.TOKEN:
                    code = "UnrecognizedClientException"
                case Fault.MALFORMED:
                    code = "IncompleteSignatureException"
                case Fault.EXPIRED | Fault.WRONG:
                    code = "InvalidSignatureException"
            raise SqsError(code, str(error), 403) from error

    async def _operate(
        self, operation: str, fields: Fields, call: Call, account: AccountState
    ) -> Fields | None:
        match operation:
            case "CreateQueue":
                return self._create(fields, call, account)
            case "GetQueueUrl":
                owner = fields.get("QueueOwnerAWSAccountId") or account.settings.account_id
                name = _text(fields, "QueueName")
                if (owner, name) not in self._driver.queues:
                    raise _no_queue()
                return {"QueueUrl": _url(call, owner, name)}
            case "ListQueues":
                prefix = fields.get("QueueNamePrefix") or ""
                return {
                    "QueueUrls": [
                        _url(call, owner, name)
                        for owner, name in self._driver.queues
                        if owner == account.settings.account_id and name.startswith(prefix)
                    ]
                }
            case "ReceiveMessage":
                return await self._receive(fields)
            case "DeleteQueue":
                self._driver.drop_queue(*self._queue_key(fields))
                return None
            case _:
                return self._operate_queue(operation, fields)

    def _operate_queue(  # noqa: PLR0911 - a table of operations
        self, operation: str, fields: Fields
    ) -> Fields | None:
        key = self._queue_key(fields)
        queue = self._driver.queues[key]
        match operation:
            case "SendMessage":
                return self._send(queue, fields)
            case "SendMessageBatch":
                return self._batch(fields, lambda entry: self._send(queue, entry))
            case "DeleteMessage":
                return _delete(queue, fields)
            case "DeleteMessageBatch":
                return self._batch(fields, lambda entry: _delete(queue, entry))
            case "ChangeMessageVisibility":
                return self._change_visibility(queue, fields)
            case "ChangeMessageVisibilityBatch":
                return self._batch(fields, lambda entry: self._change_visibility(queue, entry))
            case "GetQueueAttributes":
                return {"Attributes": self._attributes(key, queue, fields)}
            case "SetQueueAttributes":
                _set_attributes(queue, fields.get("Attributes") or {})
                return None
            case "PurgeQueue":
                queue.purge()
                return None
            case _:
                raise SqsError("UnknownOperationException", f"no such operation: {operation}")

    def _queue_key(self, fields: Fields) -> tuple[str, str]:
        path = _text(fields, "QueueUrl").split("?")[0].rstrip("/").split("/")
        key = (path[-2] if len(path) > 1 else "", path[-1])
        if key not in self._driver.queues:
            raise _no_queue()
        return key

    def _create(self, fields: Fields, call: Call, account: AccountState) -> Fields:
        name = _text(fields, "QueueName")
        if not _NAME.fullmatch(name):
            raise SqsError(
                "InvalidParameterValue",
                "Can only include alphanumeric characters, hyphens, or underscores. 1 to 80 in "
                "length. (FIFO queues are not emulated)",
            )
        owner = account.settings.account_id
        if len(self._driver.queues) >= _QUEUES_MAX:
            raise SqsError("OverLimit", f"no more than {_QUEUES_MAX} queues are emulated", 403)
        _set_attributes(self._driver.open_queue(owner, name), fields.get("Attributes") or {})
        return {"QueueUrl": _url(call, owner, name)}

    def _send(self, queue: Queue, fields: Fields) -> Fields:
        body = _text(fields, "MessageBody")
        if len(body.encode()) > MESSAGE_BYTES_MAX:
            raise SqsError(
                "InvalidParameterValue",
                f"One or more parameters are invalid. Reason: Message must be shorter than "
                f"{MESSAGE_BYTES_MAX} bytes.",
            )
        delay_s = _number(fields, "DelaySeconds", 0, 900)
        try:
            message = queue.send(body, self._driver.now(), delay_s, fields.get("MessageAttributes"))
        except QueueFull as error:
            raise SqsError("OverLimit", "the emulated queue is full", 403) from error
        self._driver.pump()
        return {"MessageId": message.id, "MD5OfMessageBody": message.md5}

    async def _receive(self, fields: Fields) -> Fields:
        queue = self._driver.queues[self._queue_key(fields)]
        count = _number(fields, "MaxNumberOfMessages", 1, _BATCH_MAX)
        wait_s = _number(fields, "WaitTimeSeconds", 0, _WAIT_MAX_S)
        messages = await self._driver.receive(
            queue,
            1 if count is None else count,
            queue.wait_s if wait_s is None else wait_s,
            _number(fields, "VisibilityTimeout", 0, 43200),
        )
        wanted = [
            *(fields.get("AttributeNames") or ()),
            *(fields.get("MessageSystemAttributeNames") or ()),
        ]
        if not messages:
            return {}
        return {"Messages": [self._shown(message, wanted) for message in messages]}

    def _shown(self, message: Message, wanted: list[str]) -> Fields:
        epoch_s = self._driver.cloud.epoch_s
        shown: Fields = {
            "MessageId": message.id,
            "ReceiptHandle": message.receipt,
            "MD5OfBody": message.md5,
            "Body": message.body,
        }
        known = {
            "SenderId": "AIDAEMULATOR",
            "SentTimestamp": _milliseconds(message.sent_at + epoch_s),
            "ApproximateReceiveCount": str(message.received),
            "ApproximateFirstReceiveTimestamp": _milliseconds(
                (message.first_received_at or 0.0) + epoch_s
            ),
        }
        attributes = {
            name: value for name, value in known.items() if name in wanted or "All" in wanted
        }
        if attributes:
            shown["Attributes"] = attributes
        if message.attributes:
            shown["MessageAttributes"] = message.attributes
        return shown

    def _change_visibility(self, queue: Queue, fields: Fields) -> Fields | None:
        hidden_s = _number(fields, "VisibilityTimeout", 0, 43200)
        if hidden_s is None:
            raise _parameter_missing("VisibilityTimeout")
        if not queue.hide(_text(fields, "ReceiptHandle"), self._driver.now(), hidden_s):
            raise SqsError("MessageNotInflight", "the message is not in flight")
        self._driver.pump()
        return None

    def _batch(self, fields: Fields, do: Callable[[Fields], Fields | None]) -> Fields:
        entries = fields.get("Entries")
        if not isinstance(entries, list) or not entries:
            raise SqsError(
                "EmptyBatchRequest",
                "There should be at least one entry in the request.",
                query_code="AWS.SimpleQueueService.EmptyBatchRequest",
            )
        if len(entries) > _BATCH_MAX:
            raise SqsError(
                "TooManyEntriesInBatchRequest",
                f"Maximum number of entries per request are {_BATCH_MAX}.",
                query_code="AWS.SimpleQueueService.TooManyEntriesInBatchRequest",
            )
        if not all(isinstance(entry, dict) for entry in entries):
            raise SqsError("SerializationException", "an entry is not an object")
        successful, failed = [], []
        for entry in entries:
            identity = _text(entry, "Id")
            try:
                successful.append({"Id": identity, **(do(entry) or {})})
            except SqsError as error:
                failed.append(
                    {
                        "Id": identity,
                        "SenderFault": True,
                        "Code": error.code,
                        "Message": str(error),
                    }
                )
        return {"Successful": successful, "Failed": failed}

    def _attributes(self, key: tuple[str, str], queue: Queue, fields: Fields) -> dict[str, str]:
        counts = queue.counts(self._driver.now())
        regions = [
            account.settings.region
            for account in self._driver.cloud.accounts.values()
            if account.settings.account_id == key[0]
        ]
        known = {
            "QueueArn": f"arn:aws:sqs:{regions[0] if regions else 'us-east-1'}:{key[0]}:{key[1]}",
            "ApproximateNumberOfMessages": str(counts.visible),
            "ApproximateNumberOfMessagesNotVisible": str(counts.in_flight),
            "ApproximateNumberOfMessagesDelayed": str(counts.delayed),
            "MaximumMessageSize": str(MESSAGE_BYTES_MAX),
            **{name: f"{getattr(queue, field):g}" for name, (field, _, _) in _NUMBERS.items()},
            **queue.attributes,
        }
        wanted = fields.get("AttributeNames") or ()
        return {name: value for name, value in known.items() if name in wanted or "All" in wanted}


def _delete(queue: Queue, fields: Fields) -> Fields | None:
    if not queue.delete(_text(fields, "ReceiptHandle")):
        raise SqsError(
            "ReceiptHandleIsInvalid", "The input receipt handle is not a valid receipt handle."
        )
    return None


def _set_attributes(queue: Queue, attributes: Mapping[str, object]) -> None:
    for name, value in attributes.items():
        if name not in _NUMBERS:
            # Policies and the like are kept and shown, and change nothing here.
            queue.attributes[name] = str(value)
            continue
        field, low, high = _NUMBERS[name]
        text = str(value)
        if not text.isascii() or not text.isdigit() or not low <= int(text[:9]) <= high:
            raise SqsError("InvalidAttributeValue", f"Invalid value for the parameter {name}.")
        setattr(queue, field, float(text))


def _text(fields: Fields, name: str) -> str:
    value = fields.get(name)
    if not isinstance(value, str) or not value:
        raise _parameter_missing(name)
    return value


def _number(fields: Fields, name: str, low: int, high: int) -> int | None:
    value = fields.get(name)
    if value is None:
        return None
    if not isinstance(value, int) or not low <= value <= high:
        raise SqsError(
            "InvalidParameterValue",
            f"Value {value} for parameter {name} is invalid. Reason: Must be from {low} to {high}.",
        )
    return value


def _parameter_missing(name: str) -> SqsError:
    return SqsError("MissingParameter", f"The request must contain the parameter {name}.")


def _no_queue() -> SqsError:
    return SqsError(
        "QueueDoesNotExist",
        "The specified queue does not exist.",
        query_code="AWS.SimpleQueueService.NonExistentQueue",
    )


def _url(call: Call, owner: str, name: str) -> str:
    return f"http://{call.header('Host') or 'localhost'}/{owner}/{name}"


def _milliseconds(wall_s: float) -> str:
    return str(round(wall_s * 1000))
