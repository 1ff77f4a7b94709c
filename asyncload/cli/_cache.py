"""``asyncload cache``."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence
from typing import Any

import typer
from rich.filesize import decimal

from asyncload.cache_folder import CacheFolder, Kept
from asyncload.loader import IndexCache
from asyncload.sources import ObjectCache

from ._command import AsJson, Debug, app, guard, print_json

__all__: list[str] = []

cache = typer.Typer(
    help="What is kept on disk for the next load: indexes, and objects of stores (cache='read').",
    no_args_is_help=True,
)
app.add_typer(cache, name="cache")


@cache.command("info")
def cache_info(as_json: AsJson = False, debug: Debug = False) -> None:
    """Say where the caches are, and what they hold."""
    guard(lambda: _cache(CacheFolder.files, "holds", as_json=as_json), debug)


@cache.command("clear")
def cache_clear(as_json: AsJson = False, debug: Debug = False) -> None:
    """Remove all that the caches hold."""
    guard(lambda: _cache(CacheFolder.clear, "removed", as_json=as_json), debug)


async def _cache(
    work: Callable[[CacheFolder], Sequence[Kept]], verb: str, *, as_json: bool
) -> None:
    indexes, objects = [
        _described(kept, await asyncio.to_thread(work, kept))
        for kept in (IndexCache(), ObjectCache())
    ]
    if as_json:
        print_json({**indexes, "objects": objects})
        return
    for each in (indexes, objects):
        count = each["entries"]
        entries = f"{count:,} {'entry' if count == 1 else 'entries'}"
        typer.echo(f"{each['folder']}: {verb} {entries}, {decimal(each['nbytes'])}")


def _described(kept: CacheFolder, files: Sequence[Kept]) -> dict[str, Any]:
    nbytes = sum(file.nbytes for file in files)
    return {"folder": str(kept.folder), "entries": len(files), "nbytes": nbytes}
