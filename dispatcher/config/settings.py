"""
The shape of the configuration: frozen structs, whose docstrings are its documentation.

`docs/configuration.md` is made from them. What no type can say is judged in `meaning.py`.
"""

from typing import Annotated, Literal

from msgspec import Meta, Struct

from dispatcher.core.model import Provider
from dispatcher.core.rules import (
    AccountRules,
    Count,
    Positive,
    PositiveSeconds,
    RetryRules,
    Rules,
    Seconds,
)

Ratio = Annotated[float, Meta(ge=0)]


class _Section(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """A table of the file: frozen, by keyword, without unknown keys."""


class ServerSettings(_Section, frozen=True, kw_only=True):
    """Who can reach the sidecar, and how it stops."""

    listen: tuple[str, ...] = ("127.0.0.1:8700",)
    """
    Addresses to listen on: `HOST:PORT`, `[IPv6]:PORT`, or `unix:/path/of.sock`. Beyond loopback
    a `token_file` is required.
    """
    token_file: str | None = None
    """
    A file of bearer tokens, one a line; a caller needs any one of them. Optional on loopback.
    The file is read again at every reload.
    """
    hosts: tuple[str, ...] = ("localhost", "127.0.0.1")
    """
    Names, without a port, that the Host header may carry; others are answered 421. It keeps web
    pages from reaching the sidecar through a name of their own.
    """
    unix_uids: tuple[Count, ...] = ()
    """
    Numbers of the users whose processes may use the Unix sockets of `listen`, as the kernel tells
    them; the dispatcher's own user always may. Empty: whoever may open the socket file.
    """
    drain_max_s: Seconds = 25.0
    """
    How long requests in flight may take after SIGTERM. Keep it below the grace period of
    whatever runs the dispatcher (30 s for a Kubernetes pod). The backlog and running functions
    stay in the journal.
    """


class MetricsSettings(_Section, frozen=True, kw_only=True):
    """A listener for Prometheus alone, so that it need not reach the API."""

    listen: str | None = "127.0.0.1:8701"
    """
    `HOST:PORT` of `GET /metrics`, `/healthz` and `/readyz`, which ask for no token. The main
    listener serves them as well; `""` leaves it at that.
    """


class JournalSettings(_Section, frozen=True, kw_only=True):
    """Where accepted invocations are kept."""

    url: str = "sqlite:dispatcher.db"
    """
    `sqlite:///absolute/path.db`, `sqlite:path.db` relative to the configuration file, or
    `memory:`, which loses everything when the process ends.
    """
    delivery: Literal["at_least_once", "at_most_once"] = "at_least_once"
    """
    What happens after a crash to an invocation that may or may not have been sent:
    `at_least_once` sends it again, `at_most_once` parks it as `uncertain`.
    """
    retention_s: PositiveSeconds = 86400.0
    """How long ended invocations and idempotency keys are kept."""
    network_filesystems: tuple[str, ...] = ()
    """
    Kinds of network file systems (`nfs`, `cifs`, ...) that the journal may lie on all the same.
    Their locks and their fsync are often not what they say.
    """


class QueueSettings(_Section, frozen=True, kw_only=True):
    """How much may wait."""

    jobs_max: Positive = 1_000_000
    """Invocations that have been accepted and have not ended; more are refused."""
    bytes_max: Count = 1_073_741_824
    """Payload bytes held in memory; the rest stays in the journal until its turn."""


class DefaultCredentials(_Section, frozen=True, kw_only=True, tag_field="source", tag="default"):
    """The provider's own chain: environment, profile, workload identity, metadata service."""


class EnvCredentials(_Section, frozen=True, kw_only=True, tag_field="source", tag="env"):
    """
    The provider's usual environment variables and nothing else.

    `AWS_ACCESS_KEY_ID`, `AWS_SECRET_ACCESS_KEY`, `AWS_SESSION_TOKEN`, or
    `ALIBABA_CLOUD_ACCESS_KEY_ID`, `ALIBABA_CLOUD_ACCESS_KEY_SECRET`,
    `ALIBABA_CLOUD_SECURITY_TOKEN`.
    """


class StaticCredentials(_Section, frozen=True, kw_only=True, tag_field="source", tag="static"):
    """A fixed key; its secret is in a file."""

    access_key_id: str
    """The key's public half."""
    access_key_secret_file: str
    """A file that holds the secret half, and that not everybody may read."""
    security_token_file: str | None = None
    """A file that holds the token of temporary credentials."""


Credentials = DefaultCredentials | EnvCredentials | StaticCredentials


class AccountSettings(AccountRules, frozen=True, kw_only=True):
    """One quota: where it is, how to reach it, and how it is shared."""

    provider: Provider
    """The cloud."""
    account_id: str
    """The provider's number of the account, in quotes."""
    region: str
    """Such as `cn-shanghai` or `us-east-1`."""
    endpoint: str | None = None
    """
    `http(s)://host[:port]` to call instead of the provider's public endpoint: an emulator, or
    an endpoint inside a VPC.
    """
    completion_queue: str | None = None
    """
    aws-lambda: URL of the SQS queue that the functions' OnSuccess and OnFailure destinations
    write to. Its own host is called, signed for the account's region.
    """
    credentials: Credentials = DefaultCredentials()
    """Where the account's keys come from."""


class ClientSettings(_Section, frozen=True, kw_only=True):
    """A local key for the drop-in endpoints; never a cloud key."""

    access_key_id: str
    """What the client's SDK is given as access key id."""
    access_key_secret_file: str
    """A file that holds the secret half, and that not everybody may read."""
    account: str
    """The account that the client's calls go to."""
    tenant: str = "default"
    """The tenant that they belong to."""
    sync_to_async: bool = False
    """Answer synchronous calls 202 and run them asynchronously."""
    wait_max_s: PositiveSeconds = 20.0
    """
    How long a synchronous call waits for its turn before it gets the provider's own throttling
    error. Keep it below the time-out of the client's SDK.
    """


class CallbackSettings(_Section, frozen=True, kw_only=True):
    """How functions tell their own ends, and who is told of the ends of invocations."""

    url: str | None = None
    """
    `http(s)://host[:port][/path]` by which functions reach this API; it is offered to those
    that end by `completion = "callback"`. Unset: the first address of `server.listen`.
    """
    hosts: tuple[str, ...] = ()
    """
    Hosts that a `callback_url` may name. Without any, invocations with a `callback_url` are
    refused. The URL must be https, and is called only at public addresses.
    """
    secret_file: str | None = None
    """
    A file that holds the key of the HMAC-SHA256 by which each call back is signed, and that not
    everybody may read. Required with `hosts`; it is read again for each call.
    """


class TracingSettings(_Section, frozen=True, kw_only=True):
    """
    Where the spans of invocations go: accept, wait, send and run (OpenTelemetry).

    Needs the extra `otel`. A caller's trace reaches the function without it as well.
    """

    endpoint: str | None = None
    """
    `http(s)://host[:port]` of a collector that takes OTLP over HTTP, usually at port 4318; unset:
    no spans are made. Headers and certificates for it are taken from the exporter's own
    environment variables, `OTEL_EXPORTER_OTLP_HEADERS` and so on.
    """
    service_name: str = "dispatcher"
    """What the spans are of: `service.name` of their resource."""
    sample_ratio: Ratio = 1.0
    """The part of the traces that begin here which is kept, up to 1; a caller's decision stands."""


class Settings(_Section, frozen=True, kw_only=True):
    """The whole configuration. Once judged, paths are absolute and completions explicit."""

    server: ServerSettings = ServerSettings()
    metrics: MetricsSettings = MetricsSettings()
    journal: JournalSettings = JournalSettings()
    queue: QueueSettings = QueueSettings()
    retry: RetryRules = RetryRules()
    callbacks: CallbackSettings = CallbackSettings()
    tracing: TracingSettings = TracingSettings()
    accounts: dict[str, AccountSettings] = {}
    clients: dict[str, ClientSettings] = {}

    def rules(self) -> Rules:
        """Return what the core decides by."""
        return Rules(
            accounts=dict(self.accounts),
            retry=self.retry,
            jobs_max=self.queue.jobs_max,
            at_most_once=self.journal.delivery == "at_most_once",
        )
