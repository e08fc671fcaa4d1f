"""
The command line.

Exit codes: 0 done (of `serve`: drained), 1 it ended otherwise than hoped, 64 usage, 74 I/O (also
a damaged journal), 75 temporary (journal locked, sidecar not reachable), 78 configuration.
"""

import sys

import typer
from typer.main import get_command

from dispatcher.cli.app import app
from dispatcher.cli.codes import Code, code_of
from dispatcher.errors import DispatcherError

__all__ = ["Code", "app", "main", "run"]

#: What the parser of arguments exits with when they are wrong.
_PARSERS_USAGE = 2


def main(args: list[str] | None = None) -> None:
    """Run a command and exit with its code."""
    sys.exit(run(args))


def run(args: list[str] | None = None) -> int:
    """Run a command; return its exit code."""
    try:
        get_command(app).main(args, prog_name="dispatcher")
    except SystemExit as end:
        code = end.code if isinstance(end.code, int) else int(end.code is not None)
        return Code.USAGE if code == _PARSERS_USAGE else code
    except KeyboardInterrupt:
        return 130
    except (DispatcherError, OSError, TimeoutError) as error:
        typer.echo(f"dispatcher: {error}", err=True)
        return code_of(error)
    return Code.OK
