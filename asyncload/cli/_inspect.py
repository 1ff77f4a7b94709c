"""``asyncload inspect``."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from rich.filesize import decimal
from rich.table import Table
from rich.text import Text

import asyncload
from asyncload.manifest import Encoding, Manifest
from asyncload.texts import printable

from ._command import AsJson, Debug, Uri, app, console, guard, print_json

__all__: list[str] = []


@app.command()
def inspect(
    uri: Uri,
    as_json: AsJson = False,
    debug: Debug = False,
) -> None:
    """List the tensors of URI from its index, reading none of them."""
    guard(lambda: _inspect(uri, as_json=as_json), debug)


async def _inspect(uri: str, *, as_json: bool) -> None:
    manifest = await asyncload.inspect(uri)
    if as_json:
        print_json(_manifest_json(manifest))
    else:
        _print_manifest(manifest)


def _manifest_json(manifest: Manifest) -> dict[str, Any]:
    return {
        "uri": manifest.uri,
        "format": manifest.format,
        "nbytes": manifest.nbytes,
        "files": [{"name": file.name, "size": file.size} for file in manifest.files],
        "documents": {name: len(data) for name, data in manifest.documents.items()},
        "assets": {name: entry.nbytes for name, entry in manifest.assets.items()},
        "left_out": dict(manifest.left_out),
        "tensors": [
            {
                "name": entry.name,
                "dtype": entry.dtype,
                "shape": entry.shape,
                "nbytes": entry.nbytes,
                "stored": entry.length,
                "encoding": _encoding(entry.encoding),
            }
            for entry in manifest.tensors.values()
        ],
    }


def _print_manifest(manifest: Manifest) -> None:
    out = console()
    title = Text(printable(f"{Path(manifest.uri).name}: {manifest.format}"))
    table = Table(title=title, title_justify="left")
    for heading, justify in (
        ("tensor", "left"), ("dtype", "left"), ("shape", "left"), ("bytes", "right"),
        ("encoding", "left"),
    ):  # fmt: skip
        table.add_column(heading, justify=justify, overflow="fold")  # type: ignore[arg-type]
    for entry in manifest.tensors.values():
        shape = " × ".join(map(str, entry.shape)) or "scalar"
        decoded, encoding = decimal(entry.nbytes), _encoding(entry.encoding)
        table.add_row(Text(printable(entry.name)), entry.dtype, shape, decoded, encoding)
    out.print(table)
    for kind, sizes in (
        ("document", {name: len(data) for name, data in manifest.documents.items()}),
        ("asset", {name: entry.nbytes for name, entry in manifest.assets.items()}),
    ):
        for name, size in sizes.items():
            out.print(Text(f"{kind} {printable(name)}: {decimal(size)}"))
    for name, reason in manifest.left_out.items():
        out.print(Text(printable(f"left out {name}: {reason}")))
    out.print(
        f"{len(manifest.tensors):,} tensors, {decimal(manifest.nbytes)} "
        f"in {len(manifest.files)} file{'s' if len(manifest.files) != 1 else ''}",
        highlight=False,
    )


def _encoding(encoding: Encoding | None) -> str:
    return "raw" if encoding is None else type(encoding).__name__.lower()
