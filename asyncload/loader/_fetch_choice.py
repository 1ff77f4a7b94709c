"""What there is to copy of what a URI names."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

from asyncload.errors import SourceError, UnknownFormat
from asyncload.formats import FOLDERS, PROGRAMS
from asyncload.interfaces import Compound, Indexing, Reader, Source
from asyncload.sources import OWN, check_name

from ._find import find_format

__all__ = ["Choice", "Wanted", "choose"]


@dataclass(frozen=True, slots=True)
class Wanted:
    """A file to copy.

    Attributes:
        name: below the folder that it is copied to.
        opened_as: what `Source.open` knows it by.
        size: in bytes, as far as it is known before it is opened.
        reader: of it, where it is open already.
    """

    name: str
    opened_as: str
    size: int
    reader: Reader | None = None


@dataclass(frozen=True, slots=True)
class Choice:
    """The files to copy.

    Attributes:
        format: of the model that they are; ``"files"`` if they are none that is known.
        files: in an order in which the last one makes a model of the others.
        name: of the path, below the folder, by which the copy is loaded; ``""`` for the folder.
    """

    format: str
    files: tuple[Wanted, ...]
    name: str

    @property
    def is_model(self) -> bool:
        """Whether the files belong together, and have to be of one time."""
        return self.format != "files"

    @property
    def nbytes(self) -> int:
        """Of all files."""
        return sum(file.size for file in self.files)


async def choose(indexing: Indexing) -> Choice:
    """Return what a load of the source would read; of a folder that is no model, every file.

    Args:
        indexing: of the source; gets readers of what was opened.

    Raises:
        SourceError: there is nothing, or it cannot be copied as it is.
        FormatError: what says which files there are is not what it should be.
    """
    source = indexing.source
    try:
        chosen, reader = await find_format(source)
    except UnknownFormat:
        return await _everything(source, "files")
    if reader.name in PROGRAMS:
        try:
            return await _everything(source, chosen.name, last=reader.name)
        except SourceError as error:
            # Servers list no folders, and stores not to everybody: what the program names, then.
            if not error.may_be_absent:
                raise
    own = source.name if _is_of_its_own(reader, source) else ""
    indexing.files.add(reader)
    if isinstance(chosen, Compound):
        await chosen.gather(indexing)
    first, *others = (_opened(each, source) for each in indexing.files.readers)
    return _checked(Choice(chosen.name, (*others, first), own), source.uri)


def _is_of_its_own(reader: Reader, source: Source) -> bool:
    """Whether the URI is a file, or what the names of several begin with, and no folder."""
    known_by = {member for member, _ in FOLDERS}
    return not reader.name or (
        reader.name not in known_by and reader.name.startswith(f"{source.name}.")
    )


def _opened(reader: Reader, source: Source) -> Wanted:
    return Wanted(reader.name or source.name, reader.name, reader.size, reader)


async def _everything(source: Source, kind: str, *, last: str = "") -> Choice:
    if await source.list() is None:
        (entry,) = await source.entries()
        own = Wanted(source.name, "", entry.size or 0)
        return _checked(Choice(kind, (own,), source.name), source.uri)
    files = [
        Wanted(entry.name, entry.name, entry.size or 0)
        for entry in await source.entries(recursive=True)
        if entry.name.partition("/")[0] != OWN
    ]
    files.sort(key=lambda file: file.name == last)
    return _checked(Choice(kind, tuple(files), ""), source.uri)


def _folders(names: Iterable[str]) -> set[str]:
    """Return every folder that one of the names lies in."""
    return {name[:at] for name in names for at, sign in enumerate(name) if sign == "/"}


def _checked(choice: Choice, uri: str) -> Choice:
    names = [file.name for file in choice.files]
    for name in names:
        check_name(name, uri=uri)
    both = sorted(_folders(names).intersection(names))
    if both:
        raise SourceError(
            f"has {both[0]!r} as a file and as a folder, which no file system has; fetch one of "
            "them by its own URI",
            uri=uri,
        )
    if any(name.partition("/")[0] == OWN for name in names):
        raise SourceError(f"has files in {OWN!r}, where a fetch keeps its notes", uri=uri)
    return choice
