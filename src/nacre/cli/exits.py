"""How commands end: an error is one line, and the exit code tells of which kind it is."""

from __future__ import annotations

import sys
from typing import Any

import click

FAILED, WRONG, NOTHING, INTERRUPTED = 1, 2, 3, 130  # and 143 after SIGTERM
CODES = """\b
Exit codes:
    0  done
    1  failed on the way: data, files, a loss that is no number
    2  wrong usage or config: an unknown name, a bad setting, a missing package
    3  nothing to do: the run is finished already
  130  interrupted (SIGINT), and 143 ended (SIGTERM), after the present step was saved: `nacre resume` goes on;
       a second signal ends it at once"""


class Commands(click.Group):
    """Commands whose errors are one line, and tell by their exit code what kind they are."""

    def invoke(self, ctx: click.Context) -> Any:
        try:
            done = super().invoke(ctx)
            sys.stdout.flush()
            return done
        except (click.ClickException, click.exceptions.Exit, click.Abort, BrokenPipeError):
            raise  # click ends a broken pipe without a word
        except KeyboardInterrupt as stop:
            said, code = stop.args if len(stop.args) == 2 else ("interrupted", INTERRUPTED)
            click.secho(said, fg="yellow", err=True)
            sys.exit(code)
        except Exception as error:
            if ctx.params.get("debug"):
                raise
            code = exit_code(error)
            if code is None:
                raise
            click.secho(f"error: {error}", fg="red", err=True)
            sys.exit(code)


def exit_code(error: Exception) -> int | None:
    """The exit code of an expected error; None for one that is a fault of ours and shows where it happened."""
    from ..core.errors import BadSetting, MissingExtra, NacreError, UnknownName
    from ..experiment import Finished

    if isinstance(error, Finished):
        return NOTHING
    if isinstance(error, (BadSetting, UnknownName, MissingExtra)):
        return WRONG
    return FAILED if isinstance(error, (NacreError, OSError, MemoryError)) else None
