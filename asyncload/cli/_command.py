"""What every command has in common: the application, its options, and how it ends."""

from __future__ import annotations

import asyncio
import json
import logging
import os
import signal
import sys
from collections.abc import Awaitable, Callable
from typing import Annotated, Any

import typer
from rich.console import Console

import asyncload
from asyncload.texts import printable

__all__ = ["AsJson", "Debug", "Uri", "app", "console", "end_in_order", "guard", "print_json"]

app = typer.Typer(
    help="Load TensorFlow and Keras models without stalling an event loop.",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    add_completion=False,
)

Uri = Annotated[
    str, typer.Argument(metavar="URI", help="a path, file://, s3://, gs://, az://, https://")
]
AsJson = Annotated[bool, typer.Option("--json", help="print JSON instead of tables")]
Debug = Annotated[bool, typer.Option("--debug", help="show the log, and the traceback of an error")]

_ANY_WIDTH = 100_000  # columns, more than any row takes
_INTERRUPTED, _TERMINATED = 130, 143  # what shells expect after SIGINT and SIGTERM


def guard(command: Callable[[], Awaitable[None]], debug: bool) -> None:
    """Run a command on uvloop; an error becomes a line on standard error and exit code 1."""
    if debug:
        _show_log()
    try:
        _run(command)
    except KeyboardInterrupt:
        raise typer.Exit(_INTERRUPTED) from None
    except asyncio.CancelledError:
        raise typer.Exit(_TERMINATED) from None
    except BrokenPipeError:
        # Whoever read our output (``head``) has gone; nothing may be flushed to it at exit.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        raise typer.Exit(1) from None
    except Exception as error:
        if debug:
            raise
        typer.echo(f"asyncload: {_one_line(error)}", err=True)
        raise typer.Exit(1) from None


def _show_log() -> None:
    """Write all of the log to standard error, the way of each failure included."""
    logging.basicConfig(format="%(name)s: %(message)s")
    logging.getLogger("asyncload").setLevel(logging.DEBUG)


def end_in_order() -> None:
    """Have SIGTERM cancel the calling task, as SIGINT does, so that it can note how far it came."""
    task = asyncio.current_task()
    if sys.platform != "win32" and task is not None:
        asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, task.cancel)


def _run(command: Callable[[], Awaitable[None]]) -> None:
    async def closed() -> None:
        try:
            await command()
        finally:
            await asyncload.aclose()

    if sys.platform == "win32":
        asyncio.run(closed())
    else:
        import uvloop

        uvloop.run(closed())


def _one_line(error: Exception) -> str:
    text = printable(" ".join(str(error).split()))
    if isinstance(error, asyncload.AsyncloadError):
        return text
    if isinstance(error, ModuleNotFoundError) and error.name in ("tensorflow", "keras"):
        return (
            f"this needs {error.name}: pip install 'asyncload[tensorflow]', or use "
            "--weights to load the tensors alone"
        )
    return f"{type(error).__name__}: {text} (--debug shows where)"


def console() -> Console:
    """Return what prints to standard output: each row on one line if that is not a terminal."""
    made = Console()
    return made if made.is_terminal else Console(width=_ANY_WIDTH)


def print_json(document: dict[str, Any]) -> None:
    """Print one document, and nothing else, to standard output."""
    typer.echo(json.dumps(document, indent=2))
