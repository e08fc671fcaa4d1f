"""Which account a request is for, and whether its signer may use it."""

import re
from collections.abc import Iterable

import msgspec

from dispatcher.emulator.account import AccountState
from dispatcher.emulator.signatures import Claim, Fault, SignatureRefused, claim, verify
from dispatcher.emulator.wire import Call

_FC_HOST = re.compile(r"(?P<account>\d+)\.(?P<region>[a-z0-9-]+?)(-internal)?\.fc\.aliyuncs\.com")
_REGION_HOST = re.compile(r"(?:lambda|sqs|fcv3)\.(?P<region>[a-z0-9-]+)\.")


class Visitor(msgspec.Struct, frozen=True):
    """A request's account, and what it says of its signer; not yet proved."""

    account: AccountState
    claim: Claim | None
    refusal: SignatureRefused | None


class Access:
    """The accounts of one provider."""

    def __init__(self, accounts: Iterable[AccountState], schemes: frozenset[str]) -> None:
        self._accounts = tuple(accounts)
        self._schemes = schemes

    def __bool__(self) -> bool:
        return bool(self._accounts)

    def visitor(self, call: Call) -> Visitor:
        """Choose by access key, then by region (and FC account id) of scope or host, else first."""
        claimed: Claim | None = None
        refusal: SignatureRefused | None = None
        try:
            claimed = claim(call)
        except SignatureRefused as error:
            refusal = error
        return Visitor(self._choose(call, claimed), claimed, refusal)

    def check(self, visitor: Visitor, call: Call, wall_s: float) -> None:
        """Prove the signature, if the account has keys at all. Raises `SignatureRefused`."""
        settings = visitor.account.settings
        if not settings.keys:
            return
        if visitor.refusal is not None:
            raise visitor.refusal
        if visitor.claim is None:
            raise SignatureRefused(Fault.MISSING, "the request is not signed")
        if visitor.claim.scheme not in self._schemes:
            raise SignatureRefused(Fault.MALFORMED, f"not signed by {sorted(self._schemes)}")
        key = visitor.claim.access_key_id
        secret = settings.keys.get(key)
        if secret is None:
            raise SignatureRefused(Fault.UNKNOWN_KEY, f"no such access key: {key}")
        verify(call, visitor.claim, secret, settings.session_tokens.get(key), wall_s)

    def _choose(self, call: Call, claimed: Claim | None) -> AccountState:
        accounts = self._accounts
        if len(accounts) == 1:
            return accounts[0]
        if claimed is not None:
            for account in accounts:
                if claimed.access_key_id in account.settings.keys:
                    return account
        host = call.header("Host")
        fc_host, region_host = _FC_HOST.match(host), _REGION_HOST.match(host)
        account_id = fc_host["account"] if fc_host else call.header("X-Fc-Account-Id")
        region = claimed.region if claimed is not None else None
        if region is None and (match := fc_host or region_host):
            region = match["region"]
        matching = [
            account
            for account in accounts
            if account_id in {"", account.settings.account_id}
            and region in {None, account.settings.region}
        ]
        return matching[0] if matching else accounts[0]
