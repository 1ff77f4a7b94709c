"""``asyncload ls`` and ``asyncload fetch``."""

from __future__ import annotations

import datetime as dt
import time
from collections.abc import Awaitable, Callable
from contextlib import nullcontext
from dataclasses import asdict
from typing import Annotated, Any

import typer
from rich.filesize import decimal

import asyncload
from asyncload.events import Event
from asyncload.redaction import shown
from asyncload.report import ProgressReporter
from asyncload.texts import printable

from ._command import AsJson, Debug, Uri, app, end_in_order, guard, print_json

__all__: list[str] = []


@app.command()
def ls(
    uri: Uri,
    long: Annotated[bool, typer.Option("-l", "--long", help="sizes, times and versions")] = False,
    recursive: Annotated[
        bool, typer.Option("-R", "--recursive", help="every file below the folder")
    ] = False,
    as_json: AsJson = False,
    debug: Debug = False,
) -> None:
    """List what is at URI: a folder's files and folders, or the file itself."""
    guard(lambda: _ls(uri, long=long, recursive=recursive, as_json=as_json), debug)


@app.command()
def fetch(
    uri: Uri,
    folder: Annotated[str, typer.Argument(metavar="DIR", help="where to; made if need be")],
    force: Annotated[bool, typer.Option("--force", help="replace files that differ")] = False,
    verify: Annotated[
        bool, typer.Option("--verify/--no-verify", help="compare checksums that stores state")
    ] = True,
    follow_links: Annotated[
        bool, typer.Option("--follow-links", help="of a local folder, even out of it")
    ] = False,
    as_json: AsJson = False,
    debug: Debug = False,
) -> None:
    """Copy what a load of URI would read into DIR; go on where an earlier fetch was interrupted."""

    async def run(loader: asyncload.Loader) -> asyncload.Fetched:
        return await loader.fetch(
            uri, folder, overwrite=force, verify=verify, follow_links=follow_links
        )

    guard(lambda: _fetch(run, as_json=as_json), debug)


# --- ls ----------------------------------------------------------------------------------


async def _ls(uri: str, *, long: bool, recursive: bool, as_json: bool) -> None:
    entries = await asyncload.ls(uri, recursive=recursive)
    if as_json:
        print_json({"uri": shown(uri), "entries": [_entry_json(entry) for entry in entries]})
        return
    size = max((len(f"{entry.size or 0}") for entry in entries), default=0)
    version = max((len(entry.version or "") for entry in entries), default=0)
    lines = (_line(entry, size, version) if long else printable(entry.name) for entry in entries)
    typer.echo("".join(f"{line}\n" for line in lines), nl=False)


def _entry_json(entry: asyncload.ListEntry) -> dict[str, Any]:
    modified = None if entry.modified is None else _time(entry.modified)
    return {**asdict(entry), "modified": modified, "folder": entry.is_folder}


def _line(entry: asyncload.ListEntry, size: int, version: int) -> str:
    number = "-" if entry.size is None else f"{entry.size}"
    modified = "-" if entry.modified is None else _time(entry.modified)
    name = printable(entry.name)
    return f"{number:>{size}}  {modified:<20}  {entry.version or '-':<{version}}  {name}"


def _time(moment: dt.datetime) -> str:
    return moment.astimezone(dt.UTC).strftime("%Y-%m-%dT%H:%M:%SZ")


# --- fetch -------------------------------------------------------------------------------


async def _fetch(
    run: Callable[[asyncload.Loader], Awaitable[asyncload.Fetched]], *, as_json: bool
) -> None:
    end_in_order()
    bar = nullcontext(_ignore) if as_json else ProgressReporter(transient=True)
    with bar as draw:
        async with asyncload.Loader(observer=draw) as loader:
            begin = time.perf_counter()
            fetched = await run(loader)
            seconds = time.perf_counter() - begin
    if as_json:
        print_json({**asdict(fetched), "seconds": seconds})
        return
    count = f"{len(fetched.files):,} file{'s' if len(fetched.files) != 1 else ''}"
    here = fetched.nbytes - fetched.fetched
    before = f", of which {decimal(here)} were there" if here else ""
    typer.echo(
        f"{printable(fetched.path)}: {count}, {decimal(fetched.nbytes)}{before} ({seconds:.1f} s)"
    )


def _ignore(event: Event) -> None:
    del event
