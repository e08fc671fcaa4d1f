"""The errors of Lambda's API, in the shape of its JSON and headers."""

from typing import Literal

from dispatcher.emulator.signatures import Fault, SignatureRefused
from dispatcher.emulator.wire import Reply, json_reply


class LambdaError(Exception):
    """
    One modelled error.

    *key*: `message` or `Message`, as the error's shape in the service model has it.
    """

    def __init__(  # the parts of one reply
        self,
        status: int,
        code: str,
        message: str,
        *,
        key: Literal["message", "Message"] = "message",
        kind: str = "User",
        reason: str | None = None,
        retry_after: str | None = None,
    ) -> None:
        super().__init__(message)
        self._status = status
        self._code = code
        self._fields = {"Type": kind, key: message}
        if reason is not None:
            self._fields = {"Reason": reason, **self._fields}
        self._retry_after = retry_after

    def reply(self, request_id: str) -> Reply:
        """Return the reply that tells it."""
        headers = {"x-amzn-RequestId": request_id, "x-amzn-ErrorType": self._code}
        if self._retry_after is not None:
            headers["Retry-After"] = self._retry_after
        return json_reply(self._status, self._fields, headers)


def throttled(reason: str, retry_after: str | None) -> LambdaError:
    """Return the 429 with that Reason."""
    return LambdaError(
        429,
        "TooManyRequestsException",
        "Rate Exceeded.",
        reason=reason,
        retry_after=retry_after,
    )


def unsigned(refused: SignatureRefused) -> LambdaError:
    """Return the 403 (or 400) for a signature."""
    match refused.fault:
        case Fault.MISSING:
            return LambdaError(
                403, "MissingAuthenticationTokenException", "Missing Authentication Token"
            )
        case Fault.MALFORMED:
            return LambdaError(400, "IncompleteSignatureException", str(refused))
        case Fault.UNKNOWN_KEY | Fault.TOKEN:
            return LambdaError(
                403,
                "UnrecognizedClientException",
                "The security token included in the request is invalid.",
            )
        case Fault.EXPIRED:
            return LambdaError(403, "InvalidSignatureException", str(refused))
        case Fault.WRONG:
            return LambdaError(
                403,
                "InvalidSignatureException",
                "The request signature we calculated does not match the signature you provided. "
                "Check your AWS Secret Access Key and signing method.",
            )
