"""
The command line.

Exit codes: 0 done (of `serve`: drained), 1 it ended otherwise than hoped, 64 usage, 74 I/O (also
a damaged journal), 75 temporary (journal locked, sidecar not reachable), 78 configuration.
"""

import sys

import click

from dispatcher.cli.app import app
from dispatcher.cli.codes import Code, code_of
from dispatcher.errors import DispatcherError

__all__ = ["Code", "app", "main"]


def main(args: list[str] | None = None) -> None:
    """Run a command and exit with its code."""
    sys.exit(run(args))


def run(args: list[str] | None = None) -> int:
    """Run a command; return its exit code."""
    from typer.main import get_command  # noqa: PLC0415 -- keeps `import dispatcher.cli` cheap

    try:
        code = get_command(app).main(args, prog_name="dispatcher", standalone_mode=False)
    except click.UsageError as error:
        error.show()
        return Code.USAGE
    except (click.exceptions.Abort, KeyboardInterrupt):
        return 130
    except (DispatcherError, OSError, TimeoutError) as error:
        click.echo(f"dispatcher: {error}", err=True)
        return code_of(error)
    return code if isinstance(code, int) else Code.OK
