"""What a URI names: a file, a folder, or what the names of several files begin with."""

from __future__ import annotations

from collections.abc import Iterable
from contextlib import suppress

from asyncload.errors import (
    AsyncloadError,
    FormatError,
    NotFound,
    SourceError,
    UnknownFormat,
    Unsafe,
)
from asyncload.formats import (
    BEGINNING,
    FOLDERS,
    PREFIXES,
    detect,
    detect_by_name,
    detect_folder,
    something_else,
)
from asyncload.interfaces import Format, Reader, Source

__all__ = ["explained", "find_format"]


async def find_format(source: Source) -> tuple[Format, Reader]:
    """Return the format of what a source has, and a reader of the file that told it.

    Raises:
        NotFound: there is nothing.
        UnknownFormat: it is of no known format.
    """
    try:
        names = await source.list()
    except SourceError as error:
        if not error.may_be_absent:
            raise
        return await _by_prefix(source, error)
    if names is not None:
        return await _in_folder(source, names)
    reader = await source.open()
    if (chosen_by_name := detect_by_name(source.name)) is not None:
        return chosen_by_name, reader
    head = await reader.read(0, min(BEGINNING, reader.size))
    return detect(source.name, head, uri=source.uri), reader


async def _in_folder(source: Source, names: list[str]) -> tuple[Format, Reader]:
    files = set(names)
    while True:
        member, chosen = detect_folder(files, uri=source.uri)
        try:
            return chosen, await source.open(member)
        except NotFound:  # a folder of that name, say
            files.remove(member)


async def _by_prefix(source: Source, missing: SourceError) -> tuple[Format, Reader]:
    """Look for files that the URI only begins to name; ``missing`` is raised if there are none."""
    folder = source.uri.endswith("/")  # of a store that lists none: an HTTP server
    refused: SourceError | None = None
    if folder:
        candidates = list(FOLDERS)
    else:
        candidates = [(source.name + ending, chosen) for ending, chosen in PREFIXES]
    for name, chosen in candidates:
        try:
            return chosen, await source.open(name)
        except Unsafe:  # no file has such a name
            continue
        except SourceError as error:
            if not error.may_be_absent:
                raise
            if not isinstance(error, NotFound):
                refused = refused or error  # one of them has to be there, and may be
    raise refused if refused is not None and (folder or isinstance(missing, NotFound)) else missing


async def explained(
    error: FormatError, source: Source, readers: Iterable[Reader], form: str
) -> FormatError:
    """Return the error of a file that is something else than its name says; or the one given.

    Args:
        error: what was wrong with one of the files.
        source: has them.
        readers: of the files that are open.
        form: name of the format that they were taken for.
    """
    # A worker does not know which file it is.
    reader = next((each for each in readers if error.uri in (None, each.uri)), None)
    with suppress(AsyncloadError):
        if reader is None and error.uri is not None:  # a shard
            reader = await source.open(error.uri.rpartition("/")[2])
        if reader is not None and error.uri in (None, reader.uri):
            head = await reader.read(0, min(BEGINNING, reader.size))
            name = reader.name or source.name
            if (what := something_else(name, head, form)) is not None:
                return UnknownFormat(f"is not of format {form}: it {what}", uri=reader.uri)
    return error
