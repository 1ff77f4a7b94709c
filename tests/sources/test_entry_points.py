"""Sources of other packages, found by an entry point that bears the scheme's name."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import pytest

import asyncload
from asyncload.errors import SourceError
from asyncload.sources import open_source

PLUGIN = """
from asyncload.sources import open_source as opened

def open_source(uri, *, threads, options):
    return opened(options["root"] + "/" + uri.partition("://")[2], threads=threads)
"""


@pytest.fixture
def plugin(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Install a package, as pip would."""
    (tmp_path / "asyncload_demo_source.py").write_text(PLUGIN)
    info = tmp_path / "demo-1.0.dist-info"
    info.mkdir()
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: demo\nVersion: 1.0\n")
    (info / "entry_points.txt").write_text(
        "[asyncload.sources]\ndemo = asyncload_demo_source:open_source\n"
    )
    monkeypatch.syspath_prepend(tmp_path)
    return tmp_path


async def test_a_source_of_another_package(plugin: Path) -> None:
    (plugin / "m.bin").write_bytes(b"content")
    options: dict[str, Any] = {"root": str(plugin)}
    async with open_source("demo://m.bin", options=options) as source:
        assert (source.name, source.local, await source.list()) == ("m.bin", False, None)
        assert await (await source.open()).read(0, 7) == b"content"
    async with asyncload.Loader(executor="thread", storage_options=options) as loader:
        results = [each async for each in loader.map_parts(lambda _: {}, ["demo://m.bin"])]
        assert results[0].error is None


OLD = """
class Old:
    # As written before there was a way to ask for sizes.
    def __init__(self, source):
        self._source = source
        self.uri, self.name, self.local = source.uri, source.name, False
        self.open, self.list, self.aclose = source.open, source.list, source.aclose

def open_source(uri, *, threads, options):
    return Old(opened(options["root"] + "/" + uri.partition("://")[2], threads=threads))
"""


async def test_a_source_that_lists_names_only(plugin: Path, tmp_path: Path) -> None:
    module = plugin / "asyncload_demo_source.py"
    module.write_text(PLUGIN.partition("\n\n")[0] + OLD)
    sys.modules.pop("asyncload_demo_source", None)
    (plugin / "f" / "sub").mkdir(parents=True)
    (plugin / "f" / "m.bin").write_bytes(b"content")
    options: dict[str, Any] = {"root": str(plugin)}
    async with open_source("demo://f", options=options) as source:
        entries = await source.entries()
        assert [(entry.name, entry.size) for entry in entries] == [("m.bin", 7), ("sub/", None)]
        with pytest.raises(SourceError, match="name the files that you want"):
            await source.entries(recursive=True)
    async with open_source("demo://f/m.bin", options=options) as source:
        assert [entry.name for entry in await source.entries()] == ["m.bin"]
    async with asyncload.Loader(executor="thread", storage_options=options) as loader:
        fetched = await loader.fetch("demo://f/m.bin", tmp_path / "to")
        assert Path(fetched).read_bytes() == b"content"


async def test_two_packages_for_one_scheme(plugin: Path) -> None:
    second = plugin / "other-1.0.dist-info"
    second.mkdir()
    (second / "METADATA").write_text("Metadata-Version: 2.1\nName: other\nVersion: 1.0\n")
    (second / "entry_points.txt").write_text("[asyncload.sources]\ndemo = x:y\n")
    async with open_source("demo://m.bin") as source:
        with pytest.raises(SourceError, match="demo, other; keep one"):
            await source.open()
