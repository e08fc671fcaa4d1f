"""
The commands that run something: serve, check, emulate, demo.

Each imports what it needs when it runs: a health check every few seconds starts the program too.
"""

import json
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from dispatcher.cli.asking import asking, dead
from dispatcher.cli.codes import Code
from dispatcher.cli.health import health
from dispatcher.version import __version__

if TYPE_CHECKING:
    from dispatcher.config import Settings

app = typer.Typer(
    add_completion=False,
    no_args_is_help=True,
    rich_markup_mode=None,
    pretty_exceptions_enable=False,
    help=(
        "Keeps serverless invocations within the concurrency quota that their cloud account "
        "shares: products enqueue and never wait, and an invocation is sent when the account has "
        "an instance free for it."
    ),
)


def _show_version(wanted: bool) -> None:  # noqa: FBT001 -- the form of a typer callback
    if wanted:
        typer.echo(f"dispatcher {__version__}")
        raise typer.Exit


@app.callback()
def everywhere(
    version: Annotated[
        bool,
        typer.Option("--version", callback=_show_version, is_eager=True, help="Show the version."),
    ] = False,
) -> None:
    """Take what stands before any command."""


asking(app)
app.command()(health)
app.add_typer(dead, name="dead")

Config = Annotated[
    Path, typer.Option("--config", "-c", help="The configuration, a TOML file.", metavar="FILE")
]


@app.command("serve")
def serve_command(
    config: Config,
    log: Annotated[
        str, typer.Option(help="json, text, or auto: text on a terminal.", metavar="FORMAT")
    ] = "auto",
) -> None:
    """
    Run the sidecar.

    SIGHUP reads the configuration again; SIGTERM drains (what is left stays in the journal)
    and exits 0; a second SIGTERM exits at once.
    """
    if log not in ("auto", "json", "text"):
        raise typer.BadParameter("expected auto, json or text", param_hint="--log")
    from dispatcher.service import configure_logging, run_loop, serve  # noqa: PLC0415

    configure_logging(as_json=log == "json" or (log == "auto" and not sys.stderr.isatty()))
    run_loop(serve, config)


@app.command()
def check(
    config: Config,
    online: Annotated[
        bool,
        typer.Option(
            "--online", help="Also ask the clouds how the ends of each function will be known."
        ),
    ] = False,
    print_config: Annotated[
        bool,
        typer.Option(
            "--print-config", help="Show every key as it will be, as JSON, without secrets."
        ),
    ] = False,
) -> None:
    """
    Read and judge a configuration.

    Exits 78 with the path of every wrong key, or says what each account's limits come to and
    warns of what works but is probably not meant.
    """
    from dispatcher.config import load, shown, warnings  # noqa: PLC0415

    settings = load(config)
    if print_config:
        typer.echo(json.dumps(shown(settings), indent=2))
        return
    for path, text in warnings(settings):
        typer.echo(f"warning: {path}: {text}", err=True)
    for name, account in settings.accounts.items():
        limit = account.quota - account.headroom
        typer.echo(
            f"{name}: {account.provider} {account.account_id} {account.region}, at most {limit} "
            f"instances (quota {account.quota}, headroom {account.headroom})"
        )
        for function, rules in account.functions.items():
            exact = "an estimate" if rules.completion in ("duration", "accepted") else "exact"
            typer.echo(f"  {function}: end known by {rules.completion} ({exact})")
    if online:
        _look(settings)
    typer.echo(f"{config}: good")


def _look(settings: "Settings") -> None:
    """Ask the clouds; what they do not say is no error of the configuration."""
    import anyio  # noqa: PLC0415

    from dispatcher.cli import online  # noqa: PLC0415
    from dispatcher.config.shape import spelled  # noqa: PLC0415

    for finding in anyio.run(online.look, settings):
        name = spelled(
            ("accounts", finding.account)
            if finding.function is None
            else ("accounts", finding.account, "functions", finding.function)
        )
        typer.echo(
            f"{'warning: ' if finding.is_warning else ''}{name}: {finding.text}",
            err=finding.is_warning,
        )


@app.command()
def emulate(
    listen: Annotated[str, typer.Option(help="Where to listen.", metavar="HOST:PORT")] = (
        "127.0.0.1:8710"
    ),
    config: Annotated[
        Path | None,
        typer.Option("--config", "-c", help="Accounts and functions, TOML.", metavar="FILE"),
    ] = None,
) -> None:
    """
    Run a local cloud: AWS Lambda, SQS, and Function Compute 3.0 and 2.0.

    Without a configuration it has one account of each provider, in which every function
    exists. What happened is at /_emulator/statistics.
    """
    from dispatcher import emulator  # noqa: PLC0415
    from dispatcher.config import address  # noqa: PLC0415
    from dispatcher.service import run_loop  # noqa: PLC0415

    try:
        where = address(listen)
    except ValueError as error:
        raise typer.BadParameter(str(error), param_hint="--listen") from error
    if isinstance(where, Path):
        raise typer.BadParameter("the emulator listens on HOST:PORT", param_hint="--listen")
    try:
        settings = emulator.Settings() if config is None else emulator.load(config)
    except (emulator.SettingsError, OSError) as error:
        typer.echo(f"dispatcher: {error}", err=True)
        raise typer.Exit(Code.CONFIG) from error
    host, port = where
    run_loop(
        emulator.serve,
        settings,
        host,
        port,
        lambda url: typer.echo(f"emulating at {url}  (Ctrl-C ends it)", err=True),
    )


@app.command("demo")
def demo_command(
    fast: Annotated[
        bool, typer.Option("--fast", help="A smaller burst, for tests: about ten seconds.")
    ] = False,
) -> None:
    """
    Show what the dispatcher is for: three products burst over one quota.

    First without it, then with it; exits 0 if the promise held.
    """
    import anyio  # noqa: PLC0415

    from dispatcher import demo  # noqa: PLC0415

    held = anyio.run(demo.run, fast)
    raise typer.Exit(Code.OK if held else Code.FAILED)
