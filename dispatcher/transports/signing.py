"""
The two signatures that the clouds ask for, as pure functions: time and nonce are arguments.

What is signed of a request stands in `core/canonical.py`, since whoever verifies a signature
needs it as well.
"""

import functools
import time

from dispatcher.core.canonical import (
    ACS3,
    SIGV4,
    Headers,
    acs3_signature,
    canonical_query,
    canonical_request,
    path_segment,
    signed_names,
    sigv4_path,
    sigv4_signature,
    sigv4_value,
)

__all__ = [
    "ACS3",
    "SIGV4",
    "Headers",
    "acs3_authorization",
    "acs3_signature",
    "acs3_time",
    "canonical_query",
    "canonical_request",
    "path_segment",
    "signed_names",
    "sigv4_authorization",
    "sigv4_path",
    "sigv4_signature",
    "sigv4_time",
    "sigv4_value",
]


@functools.lru_cache(maxsize=4)
def sigv4_time(second: int) -> str:
    """Return a moment (Unix time) as `x-amz-date` writes it."""
    return time.strftime("%Y%m%dT%H%M%SZ", time.gmtime(second))


def sigv4_authorization(
    access_key_id: str, moment: str, region: str, service: str, names: str, signature: str
) -> str:
    """Return the value of the `Authorization` header; *names* is `signed_names`."""
    return (
        f"{SIGV4} Credential={access_key_id}/{moment[:8]}/{region}/{service}/aws4_request, "
        f"SignedHeaders={names}, Signature={signature}"
    )


@functools.lru_cache(maxsize=4)
def acs3_time(second: int) -> str:
    """Return a moment (Unix time) as `x-acs-date` writes it."""
    return time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime(second))


def acs3_authorization(access_key_id: str, names: str, signature: str) -> str:
    """Return the value of the `Authorization` header; *names* is `signed_names`."""
    return f"{ACS3} Credential={access_key_id},SignedHeaders={names},Signature={signature}"
