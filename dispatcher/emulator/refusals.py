"""Why the cloud does not accept an invocation."""

from dispatcher.emulator.providers import Shortage


class Refused(Exception):
    """An invocation was not accepted, and will not run."""


class FunctionMissing(Refused):
    """There is no such function in the account."""


class QualifierMissing(Refused):
    """The function has no such version or alias."""


class PayloadTooLarge(Refused):
    """The payload is larger than the provider takes."""

    def __init__(self, size: int, size_max: int) -> None:
        super().__init__(f"{size} bytes, at most {size_max}")
        self.size_max = size_max


class TaskExists(Refused):
    """The task id was used before."""


class Throttled(Refused):
    """Something is short at the moment; *code* is the provider's word for it."""

    def __init__(self, shortage: Shortage, code: str) -> None:
        super().__init__(code)
        self.shortage = shortage
        self.code = code
