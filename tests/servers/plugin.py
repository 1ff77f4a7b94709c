"""Fixtures of real servers. Each is started when the first test asks for it, and ends with the run.

Where one is not installed its tests skip, and say so; with CI=true they fail.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager
from typing import TypeVar

import pytest

from tests.servers.azurite import Azurite
from tests.servers.daemon import Unavailable
from tests.servers.rgw import Rgw
from tests.servers.web import Web

__all__ = ["azurite", "rgw", "web"]

Server = TypeVar("Server", bound=AbstractContextManager[object])


def _serve(make: Callable[[], Server]) -> Iterator[Server]:
    try:
        server = make()
    except Unavailable as error:
        if os.environ.get("CI") == "true":
            raise
        pytest.skip(str(error))
    with server:
        yield server


@pytest.fixture(scope="session")
def rgw() -> Iterator[Rgw]:
    """Ceph's S3 gateway."""
    yield from _serve(Rgw)


@pytest.fixture(scope="session")
def azurite() -> Iterator[Azurite]:
    """Azure Blob storage."""
    yield from _serve(Azurite)


@pytest.fixture(scope="session")
def web() -> Iterator[Web]:
    """nginx."""
    yield from _serve(Web)
