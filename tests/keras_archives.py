"""Archives of Keras with other documents than Keras wrote."""

from __future__ import annotations

import json
import zipfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

__all__ = ["config_of", "with_config"]


def config_of(path: Path) -> dict[str, Any]:
    """Return the config in a ``.keras`` archive."""
    with zipfile.ZipFile(path) as file:
        found: dict[str, Any] = json.loads(file.read("config.json"))
    return found


def with_config(
    saved: Path, path: Path, config: Any, *, compression: int = zipfile.ZIP_STORED, **others: Any
) -> Path:
    """Write an archive with another config.

    Args:
        saved: the archive that has all the rest.
        path: where to.
        config: as text, or what becomes JSON.
        compression: of the documents.
        others: documents, by their names without ``.json``.
    """
    documents = {f"{name}.json": content for name, content in {"config": config, **others}.items()}
    with zipfile.ZipFile(saved) as file:
        members = {name: file.read(name) for name in file.namelist() if name not in documents}
    with zipfile.ZipFile(path, "w") as file:
        _write(file, members, zipfile.ZIP_STORED)
        _write(file, {n: _text(each) for n, each in documents.items()}, compression)
    return path


def _text(document: Any) -> bytes:
    if isinstance(document, bytes):
        return document
    return (document if isinstance(document, str) else json.dumps(document)).encode()


def _write(file: zipfile.ZipFile, members: Mapping[str, bytes], compression: int) -> None:
    for name, content in members.items():
        file.writestr(name, content, compression)
