"""What the tests of loads share."""

from __future__ import annotations

from collections.abc import AsyncIterator

import pytest

import asyncload


@pytest.fixture
async def loader() -> AsyncIterator[asyncload.Loader]:
    """A Loader with one worker process."""
    async with asyncload.Loader(processes=1) as made:
        yield made
