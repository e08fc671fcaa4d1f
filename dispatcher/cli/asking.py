"""The commands that ask a running sidecar: enqueue, status, dead."""

import json
import os
import sys
from contextlib import AbstractContextManager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from dispatcher.cli.codes import Code
from dispatcher.core.model import CallType, Invocation, Query, Record, State
from dispatcher.core.views import AccountView
from dispatcher.errors import ConfigError

if TYPE_CHECKING:
    from rich.console import Console

    from dispatcher.client import BlockingClient

Url = Annotated[
    str,
    typer.Option(
        envvar="DISPATCHER_URL",
        help="The sidecar: http://HOST:PORT or unix:/path/of.sock.",
        metavar="URL",
    ),
]
TokenFile = Annotated[
    Path | None,
    typer.Option(
        envvar="DISPATCHER_TOKEN_FILE",
        help="A file with the bearer token, where the sidecar asks for one.",
        metavar="FILE",
    ),
]
DEFAULT_URL = "http://127.0.0.1:8700"

dead = typer.Typer(no_args_is_help=True, help="List dead invocations, or let them run again.")


def _client(url: str, token_file: Path | None) -> "BlockingClient":
    from dispatcher.client import BlockingClient  # noqa: PLC0415 -- `serve` starts without it
    from dispatcher.config import tokens  # noqa: PLC0415

    token = None
    if token_file is not None:
        try:
            token = tokens(str(token_file))[0]
        except ConfigError as error:
            raise typer.BadParameter(str(error), param_hint="--token-file") from error
    try:
        return BlockingClient(url, token=token)
    except ValueError as error:
        raise typer.BadParameter(str(error)) from error


def _busy(words: str) -> AbstractContextManager[object]:
    """Show on a terminal that something goes on; elsewhere nothing."""
    from rich.console import Console  # noqa: PLC0415 -- what prints no more than a line does without

    return Console(stderr=True).status(words)


def asking(app: typer.Typer) -> None:
    """Add the commands to *app*."""
    app.command()(enqueue)
    app.command()(status)


def enqueue(
    target: Annotated[str, typer.Argument(metavar="ACCOUNT/FUNCTION[:QUALIFIER]")],
    payload: Annotated[
        str, typer.Option(help="The payload, or @FILE, or @- for standard input.")
    ] = "",
    tenant: Annotated[str, typer.Option(help="The product that it belongs to.")] = "default",
    priority: Annotated[float, typer.Option(help="Head start in seconds.")] = 0.0,
    delay_s: Annotated[float, typer.Option("--delay", help="Not before so many seconds.")] = 0.0,
    expires_s: Annotated[
        float | None, typer.Option("--expires", help="Not sent after so many seconds.")
    ] = None,
    key: Annotated[str | None, typer.Option(help="Idempotency key.")] = None,
    sync: Annotated[bool, typer.Option("--sync", help="Call the function synchronously.")] = False,
    wait: Annotated[
        bool, typer.Option("--wait", help="Wait for the end; exit 1 if it is not a success.")
    ] = False,
    url: Url = DEFAULT_URL,
    token_file: TokenFile = None,
) -> None:
    """Enqueue one invocation; print its id once it is on disk, or its end with --wait."""
    account, slash, function = target.partition("/")
    if not slash or not account or not function:
        raise typer.BadParameter("expected ACCOUNT/FUNCTION[:QUALIFIER]", param_hint="target")
    invocation = Invocation(
        account=account,
        function=function,
        payload=_payload(payload),
        tenant=tenant,
        priority=priority,
        delay_s=delay_s,
        expires_s=expires_s,
        idempotency_key=key,
        type=CallType.SYNC if sync else None,
    )
    with _client(url, token_file) as client:
        ticket = client.enqueue(invocation)
        accepted = ticket.accepted()
        if not wait:
            typer.echo(accepted.id)
            return
        with _busy(f"waiting for the end of {accepted.id}"):
            end = ticket.ended()
    typer.echo(f"{end.id} {end.state}{' (estimated)' if end.estimated else ''}", err=True)
    if end.result is not None:
        sys.stdout.buffer.write(end.result + b"\n")
    if end.error is not None:
        typer.echo(f"{end.error.kind}: {end.error.message}", err=True)
    raise typer.Exit(Code.OK if end.state is State.SUCCEEDED else Code.FAILED)


def _payload(text: str) -> bytes:
    if not text.startswith("@"):
        return text.encode()
    if text == "@-":
        return sys.stdin.buffer.read()
    return Path(text[1:]).read_bytes()


def status(
    as_json: Annotated[bool, typer.Option("--json", help="One JSON document.")] = False,
    url: Url = DEFAULT_URL,
    token_file: TokenFile = None,
) -> None:
    """Show every account: what is held, by whom, what waits and for what."""
    with _client(url, token_file) as client:
        accounts = client.accounts()
    if as_json:
        import msgspec  # noqa: PLC0415 -- only here

        typer.echo(json.dumps(msgspec.to_builtins(accounts), indent=2))
        return
    from rich.console import Console  # noqa: PLC0415

    console = Console(soft_wrap=True)
    for account in accounts:
        _show_account(console, account)


def _show_account(console: "Console", account: AccountView) -> None:
    paused = "  [bold]PAUSED[/bold]" if account.paused else ""
    console.print(
        f"[bold]{account.name}[/bold]  {account.provider} {account.account_id} {account.region}"
        f"  {account.in_use} of {account.limit} instances (quota {account.quota})"
        f"  {account.queued.due} due, {account.queued.delayed} later"
        f"  oldest {account.oldest_age_s:.0f} s{paused}{_of_others(account)}"
    )
    _show(
        console,
        ("tenant", "weight", "reserved", "limit", "in use", "queued", "oldest s"),
        [
            (
                name,
                t.weight,
                t.reserved,
                t.limit or "-",
                t.in_use,
                t.queued,
                f"{t.oldest_age_s:.0f}",
            )
            for name, t in sorted(account.tenants.items())
        ],
    )
    _show(
        console,
        ("function", "limit", "in use", "queued", ""),
        [
            (name, f.limit or "-", f.in_use, f.queued, "paused" if f.paused else _why(f, account))
            for name, f in sorted(account.functions.items())
        ],
    )


def _of_others(account: AccountView) -> str:
    """Say what holds due work up, and what others seem to use."""
    told = f"  waits for {account.blocked_by}" if account.blocked_by else ""
    if account.adaptive_limit:
        told += "  adaptive"
    return f"{told}  others use about {account.foreign}" if account.foreign else told


def _why(function: object, account: AccountView) -> str:
    if untracked := getattr(function, "untracked", None):
        return f"ends are estimated: {untracked}"
    limit = getattr(function, "limit", None)
    if not getattr(function, "queued", 0):
        return ""
    if limit is not None and getattr(function, "in_use", 0) >= limit:
        return "waits for the function's own limit"
    if account.in_use >= account.limit:
        return "waits for the account"
    return ""


def _show(console: "Console", head: tuple[str, ...], rows: list[tuple[object, ...]]) -> None:
    from rich.table import Table  # noqa: PLC0415

    if not rows:
        return
    table = Table(*head, box=None, pad_edge=True, header_style="dim")
    for row in rows:
        table.add_row(*(f"{cell:g}" if isinstance(cell, float) else str(cell) for cell in row))
    console.print(table)


@dead.command("list")
def dead_list(
    account: Annotated[str | None, typer.Option(help="Only this account.")] = None,
    function: Annotated[str | None, typer.Option(help="Only this function.")] = None,
    tenant: Annotated[str | None, typer.Option(help="Only this tenant.")] = None,
    limit: Annotated[int, typer.Option(help="How many at the most.", min=1)] = 100,
    as_json: Annotated[bool, typer.Option("--json", help="One JSON object a line.")] = False,
    url: Url = DEFAULT_URL,
    token_file: TokenFile = None,
) -> None:
    """List dead invocations, newest first, with what killed them."""
    query = Query(state=State.DEAD, account=account, function=function, tenant=tenant)
    with _client(url, token_file) as client:
        for shown, view in enumerate(client.find(query)):
            if shown == limit:
                typer.echo("... there are more: raise --limit", err=True)
                break
            typer.echo(_line(view.record, as_json=as_json))


def _line(record: Record, *, as_json: bool) -> str:
    failure = record.failure
    if as_json:
        return json.dumps(
            {
                "id": record.id,
                "account": record.account,
                "function": record.function,
                "tenant": record.tenant,
                "attempts": record.attempt,
                "error": None
                if failure is None
                else {
                    "kind": failure.kind,
                    "message": failure.message,
                    "reason": failure.reason,
                    "status": failure.status,
                },
            }
        )
    why = "" if failure is None else f"{failure.kind}: {failure.reason or failure.message}"
    return f"{record.id}  {record.account}/{record.function}  {record.tenant}  {why}"


@dead.command("redrive")
def dead_redrive(
    ids: Annotated[list[str] | None, typer.Argument(metavar="[ID]...")] = None,
    every: Annotated[
        bool, typer.Option("--all", help="Every dead one that the filters select.")
    ] = False,
    account: Annotated[str | None, typer.Option(help="Only this account.")] = None,
    function: Annotated[str | None, typer.Option(help="Only this function.")] = None,
    tenant: Annotated[str | None, typer.Option(help="Only this tenant.")] = None,
    url: Url = DEFAULT_URL,
    token_file: TokenFile = None,
) -> None:
    """Let dead invocations run again, as new attempts: those named, or with --all every one."""
    if bool(ids) == every:
        raise typer.BadParameter("name ids, or give --all", param_hint="ids")
    with _client(url, token_file) as client:
        if ids:
            for invocation_id in ids:
                client.redrive(invocation_id)
            count = len(ids)
        else:
            query = Query(state=State.DEAD, account=account, function=function, tenant=tenant)
            with _busy("redriving"):
                count = client.redrive_dead(query)
    typer.echo(f"{count} will run again", err=not os.isatty(1))
