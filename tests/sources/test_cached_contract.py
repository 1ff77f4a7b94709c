"""What is read by way of the disk does what every Source does."""

from __future__ import annotations

import functools

import pytest

from asyncload.sources import ObjectCache, open_source
from tests.sources import test_object_contract as stored


@pytest.fixture(autouse=True)
def cache(monkeypatch: pytest.MonkeyPatch, tmp_path_factory: pytest.TempPathFactory) -> ObjectCache:
    made = ObjectCache(tmp_path_factory.mktemp("cache"), 1 << 30)
    opened = functools.partial(open_source, cache=made)
    monkeypatch.setattr("tests.contracts.source_contract.open_source", opened)
    monkeypatch.setattr("tests.sources.test_object_contract.open_source", opened)
    return made


@pytest.fixture(autouse=True)
def _ended(cache: ObjectCache) -> object:
    yield
    cache.close()


class TestCachedS3(stored.TestS3):
    pass
