"""``asyncload cache``."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence

import typer
from rich.filesize import decimal

from asyncload.loader import IndexCache, Kept

from ._command import AsJson, Debug, app, guard, print_json

__all__: list[str] = []

cache = typer.Typer(
    help="The index cache: what spares the second load of a file its index.", no_args_is_help=True
)
app.add_typer(cache, name="cache")


@cache.command("info")
def cache_info(as_json: AsJson = False, debug: Debug = False) -> None:
    """Say where the index cache is, and what it holds."""
    guard(lambda: _cache(IndexCache.files, "holds", as_json=as_json), debug)


@cache.command("clear")
def cache_clear(as_json: AsJson = False, debug: Debug = False) -> None:
    """Remove all that the index cache holds."""
    guard(lambda: _cache(IndexCache.clear, "removed", as_json=as_json), debug)


async def _cache(work: Callable[[IndexCache], Sequence[Kept]], verb: str, *, as_json: bool) -> None:
    kept = IndexCache()
    files = await asyncio.to_thread(work, kept)
    folder, nbytes = str(kept.folder), sum(file.nbytes for file in files)
    if as_json:
        print_json({"folder": folder, "entries": len(files), "nbytes": nbytes})
    else:
        entries = f"{len(files):,} {'entry' if len(files) == 1 else 'entries'}"
        typer.echo(f"{folder}: {verb} {entries}, {decimal(nbytes)}")
