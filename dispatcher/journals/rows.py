"""How new invocations and changes become rows, and rows become records."""

import sys
from typing import Any, Final, Literal

import msgspec

from dispatcher.core.model import (
    CallType,
    Ended,
    Failure,
    Record,
    Returned,
    Running,
    Sending,
    State,
)

Row = tuple[Any, ...]

# -- In: the columns are those of the statements -------------------------------------------------

#: What stands for NULL on the way in, see `statements`: no such value has any of the columns.
_NO_TEXT: Final = 0
_NO_NUMBER: Final = ""


def invocation_row(record: Record, seq: int) -> Row:
    """Return the row of a new invocation."""
    return (
        seq,
        record.id,
        record.account,
        record.function,
        _NO_TEXT if record.qualifier is None else record.qualifier,
        record.tenant,
        record.type.value,
        record.priority,
        "waiting",
        record.attempt,
        record.payload_bytes,
        record.accepted_ms,
        record.due_ms,
        _NO_NUMBER if record.expires_ms is None else record.expires_ms,
        _NO_TEXT if record.task_id is None else record.task_id,
        _NO_TEXT if record.key is None else record.key,
        _storable(record.callback_url),
        _json(record.options),
    )


def sending_row(change: Sending) -> Row:
    """Return the row of a send that begins."""
    return (change.id, change.attempt, change.at_ms)


def running_row(change: Running) -> Row:
    """Return the row of what the cloud has taken."""
    return (change.id, change.at_ms, _storable(change.request_id))


def ended_row(change: Ended) -> Row:
    """Return the row of an end."""
    return (
        change.id,
        change.state.value,
        change.at_ms,
        _storable(change.request_id),
        _json(change.failure),
        int(change.estimated),
        _NO_NUMBER if change.start_delay_s is None else change.start_delay_s,
    )


def returned_row(change: Returned) -> Row:
    """Return the row of what waits again."""
    return (
        change.id,
        # What the cloud may have is still being sent, for whoever reads this later.
        "sending" if change.maybe_sent else "waiting",
        change.attempt,
        change.due_ms,
        _json(change.failure),
    )


def _storable(text: str | None) -> str | Literal[0]:
    """
    Return *text* with what is no character written out.

    Headers and bodies of odd peers decode to such strings (PEP 383), and one that cannot be
    stored must not be the end of the journal.
    """
    if text is None:
        return _NO_TEXT
    return text if text.isascii() else text.encode(errors="backslashreplace").decode()


def _json(content: Failure | dict[str, str] | None) -> str | Literal[0]:
    if not content:
        return _NO_TEXT
    try:
        return msgspec.json.encode(content).decode()
    except UnicodeEncodeError:
        plain = msgspec.to_builtins(content)
        return msgspec.json.encode(
            {key: _storable(one) if isinstance(one, str) else one for key, one in plain.items()}
        ).decode()


# -- Out ----------------------------------------------------------------------------------------

RECORD_COLUMNS: Final = (
    "seq, id, account, function, qualifier, tenant, type, priority, state, attempt, payload_bytes,"
    " accepted_ms, due_ms, expires_ms, first_sent_ms, sent_ms, ended_ms, request_id, task_id, key,"
    " callback_url, options, estimated, failure, start_delay_s"
)
"""What `record_of` takes, of `invocations`; a result may follow."""

_STATES: Final = {state.value: state for state in State}
_TYPES: Final = {call_type.value: call_type for call_type in CallType}
_options = msgspec.json.Decoder(dict[str, str])
_failure = msgspec.json.Decoder(Failure)


def record_of(row: Row) -> Record:
    """Return the record in *row*. Its digest stays with the key."""
    return Record(
        id=row[1],
        # A million invocations share a handful of these.
        account=sys.intern(row[2]),
        function=sys.intern(row[3]),
        qualifier=None if row[4] is None else sys.intern(row[4]),
        tenant=sys.intern(row[5]),
        type=_TYPES[row[6]],
        priority=row[7],
        state=_STATES[row[8]],
        attempt=row[9],
        payload_bytes=row[10],
        accepted_ms=row[11],
        due_ms=row[12],
        expires_ms=row[13],
        first_sent_ms=row[14],
        sent_ms=row[15],
        ended_ms=row[16],
        request_id=row[17],
        task_id=row[18],
        key=row[19],
        callback_url=row[20],
        options=_options.decode(row[21]) if row[21] else {},
        estimated=bool(row[22]),
        failure=_failure.decode(row[23]) if row[23] else None,
        start_delay_s=row[24],
        result=row[25] if len(row) > 25 else None,
    )
