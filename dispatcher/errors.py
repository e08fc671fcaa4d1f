"""
The errors that callers may meet, as one tree.

* DispatcherError
  * ConfigError           the configuration is wrong; nothing was changed
  * Rejected              an invocation was not accepted and will never run
    * Invalid             ... because of what it says
      * PayloadTooLarge   ... because the provider would refuse its size
      * KeyReused         ... because its idempotency key belongs to another job
    * QueueFull           ... because too many wait already
    * Draining            ... because this process is about to end
    * DiskFull            ... because the journal has no room to keep it
    * WaitedTooLong       ... because it did not get its turn while its caller waited
    * Withdrawn           ... because somebody cancelled it while its caller waited
  * NotFound              no invocation, account or function of that name
  * NotPossible           the invocation is in a state that does not allow this
  * NotAllowed            whoever asks has not shown that he may do this
  * JournalError          the journal failed: what it was told may not be on disk
    * JournalLocked       ... because another process uses it
    * JournalDamaged      ... because its file is not what was written
  * Unreachable           a client got no answer from its sidecar

What became of an invocation in the cloud is not an error but an `Outcome` (core/model.py).
A broken promise inside this program is an `AssertionError`.
"""

from collections.abc import Sequence


class DispatcherError(Exception):
    """The root of all errors that this package raises on purpose."""


class ConfigError(DispatcherError):
    """
    The configuration is wrong; nothing was changed.

    *problems* are `(path, message)` pairs, all that were found, such as
    `("accounts.cn-prod.quota", "expected int, got str")`.
    """

    def __init__(self, problems: Sequence[tuple[str, str]]) -> None:
        """Keep *problems*; the message has a line for each."""
        assert problems
        self.problems = tuple(problems)
        super().__init__("\n".join(f"{path}: {text}" if path else text for path, text in problems))


class Rejected(DispatcherError):
    """
    The invocation was not accepted and will never run.

    *reason* is a short, stable word for metrics; *retry_after_s* says when another
    try makes sense, None where none does.
    """

    reason = "rejected"

    def __init__(self, message: str, *, retry_after_s: float | None = None) -> None:
        """Say why in one sentence."""
        super().__init__(message)
        self.retry_after_s = retry_after_s


class Invalid(Rejected):
    """What the invocation says is wrong; *pointer* is the JSON pointer of the field to blame."""

    reason = "invalid"

    def __init__(self, message: str, *, pointer: str | None = None) -> None:
        """Say what is wrong with the field at *pointer*."""
        super().__init__(message)
        self.pointer = pointer


class PayloadTooLarge(Invalid):
    """The payload is larger than the provider takes for this type of call."""

    reason = "payload_too_large"


class KeyReused(Invalid):
    """The idempotency key already belongs to a different job."""

    reason = "key_reused"


class QueueFull(Rejected):
    """As many invocations as `queue.jobs_max` allows have been accepted and have not ended."""

    reason = "queue_full"


class Draining(Rejected):
    """The process is about to end and takes no more work."""

    reason = "draining"


class DiskFull(Rejected):
    """The journal has no room to keep the invocation."""

    reason = "disk_full"


class WaitedTooLong(Rejected):
    """A synchronous call did not get its turn in the time that its caller may wait."""

    reason = "waited_too_long"

    def __init__(self, message: str, *, gate: str, retry_after_s: float) -> None:
        """*gate* is the word for what it waited for (core/model.py, `GateKind`)."""
        super().__init__(message, retry_after_s=retry_after_s)
        self.gate = gate


class Withdrawn(Rejected):
    """A synchronous call was cancelled by somebody else than its caller."""

    reason = "withdrawn"


class NotFound(DispatcherError):
    """There is no invocation, account or function of that name."""


class NotPossible(DispatcherError):
    """The invocation is in a state that does not allow what was asked."""


class NotAllowed(DispatcherError):
    """Whoever asks has not shown that he may do this."""


class JournalError(DispatcherError):
    """The journal failed: what it was told last may not be on disk."""


class JournalLocked(JournalError):
    """Another process uses the journal."""


class JournalDamaged(JournalError):
    """The journal's file is not what was written; it was left untouched."""


class Unreachable(DispatcherError):
    """
    The sidecar cannot be reached, or its answer did not come.

    *maybe_done*: the request was sent, so what it asked for may have happened all the same.
    """

    def __init__(self, message: str, *, maybe_done: bool) -> None:
        """Say what the network did."""
        super().__init__(message)
        self.maybe_done = maybe_done


def first_of(error: BaseException) -> BaseException:
    """Return the first error of a tree of them: the others are its consequences."""
    while isinstance(error, BaseExceptionGroup):
        error = error.exceptions[0]
    return error
