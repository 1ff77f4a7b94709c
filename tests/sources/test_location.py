"""URIs taken apart."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import pytest

from asyncload.errors import SourceError
from asyncload.redaction import shown
from asyncload.sources import open_source
from asyncload.sources._location import locate, neighbour


@pytest.mark.parametrize(
    ("uri", "scheme", "path", "name"),
    [
        ("m.keras", "file", "m.keras", "m.keras"),
        ("/a b/m.keras", "file", "/a b/m.keras", "m.keras"),
        ("/a/100%.keras", "file", "/a/100%.keras", "100%.keras"),
        (Path("/a/m.keras"), "file", "/a/m.keras", "m.keras"),
        ("folder/", "file", "folder/", "folder"),
        ("C:/m.keras", "file", "C:/m.keras", "m.keras"),
        ("file:///a%20b/m.keras", "file", "/a b/m.keras", "m.keras"),
        ("file://localhost/a/m#1.keras", "file", "/a/m#1.keras", "m#1.keras"),
        ("FILE:///a/m.keras", "file", "/a/m.keras", "m.keras"),
        ("memory://one/two.keras", "memory", "one/two.keras", "two.keras"),
        ("memory:///one/", "memory", "one", "one"),
    ],
)
def test_located(uri: str | os.PathLike[str], scheme: str, path: str, name: str) -> None:
    location = locate(uri)
    assert (location.scheme, location.path, location.name) == (scheme, path, name)


@pytest.mark.parametrize("uri", ["s4://bucket/m.keras", "hf://org/model", "ftp://u:pw@host/x?k=1"])
async def test_an_unknown_scheme_names_the_known_ones(uri: str) -> None:
    async with open_source(uri) as source:  # packages are searched for it when it is used
        with pytest.raises(SourceError, match=r"file://, memory://") as caught:
            await source.open()
    assert "pw" not in str(caught.value)
    assert "k=1" not in str(caught.value)


def test_a_file_of_another_host() -> None:
    with pytest.raises(SourceError, match="three slashes"):
        open_source("file://host/a")


@pytest.mark.parametrize("uri", [None, 5, ["path"]])
def test_other_types(uri: Any) -> None:
    with pytest.raises(TypeError):
        open_source(uri)


def test_credentials_never_show() -> None:
    assert shown("s3://key:secret@bucket/a?X-Sig=1#f") == "s3://bucket/a"
    assert shown("a/path?with=this") == "a/path?with=this"
    assert shown(Path("a")) == "a"


@pytest.mark.parametrize(
    ("path", "folder", "expected"),
    [
        ("m.json", False, "x"),
        ("/m.json", False, "/x"),
        ("a/m.json", False, "a/x"),
        ("a/", True, "a/x"),
        ("a", True, "a/x"),
        ("/", True, "/x"),
        ("memory://a/m.json", False, "memory://a/x"),
    ],
)
def test_neighbours(path: str, folder: bool, expected: str) -> None:
    assert neighbour(path, "x", folder=folder) == expected
