"""What tests of slots and caches share: a Loader, and versions of a model on disk."""

from __future__ import annotations

from collections.abc import AsyncIterator
from pathlib import Path

import pytest

import asyncload
from tests.serving.models import save, save_versions

VERSIONS = 5


@pytest.fixture
async def loader(tmp_path: Path) -> AsyncIterator[asyncload.Loader]:
    async with asyncload.Loader(executor="thread", index_cache=tmp_path / "index") as made:
        yield made


@pytest.fixture(scope="session")
def saved(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a base with versions 1 to 5; not to be changed."""
    return save_versions(tmp_path_factory.mktemp("base"), *range(1, VERSIONS + 1))


@pytest.fixture(scope="session")
def wide(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a model of another architecture, of version 9."""
    return save(9, tmp_path_factory.mktemp("wide") / "wide.keras", width=3)


@pytest.fixture(scope="session")
def exported(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a base with SavedModels, versions 1 to 3."""
    base = tmp_path_factory.mktemp("exported")
    for version in (1, 2, 3):
        save(version, base / str(version))
    return base
