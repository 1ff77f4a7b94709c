"""What every test gets: both event loops, and a check that it left nothing behind."""

from __future__ import annotations

import asyncio
import asyncio.constants
import inspect
import os
import signal
import tempfile
import zlib
from collections.abc import AsyncIterator, Callable, Iterator, Mapping

import pytest
import uvloop
from obstore.store import MemoryStore

from tests.leaks import leaked, snapshot

pytest_plugins = ["tests.servers.plugin"]

# Before any test imports them.
os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
os.environ.setdefault("KERAS_BACKEND", "tensorflow")

# Debug mode notes where each future was made; ten frames of it take a tenth of the suite's time.
setattr(asyncio.constants, "DEBUG_STACK_DEPTH", 2)  # noqa: B010 (declared final)

_LOOPS: Mapping[str, Callable[[], asyncio.AbstractEventLoop]] = {
    "asyncio": asyncio.new_event_loop,
    "uvloop": uvloop.new_event_loop,
}

_TASK_PATIENCE = 2.0  # seconds

_caches = tempfile.TemporaryDirectory(prefix="asyncload-tests-")


def pytest_sessionstart() -> None:
    """Begin alike wherever the suite is run from."""
    # libuv opens a pipe here that it keeps as long as the program lives.
    uvloop.new_event_loop().close()
    # So does obstore, of what its own threads wait on.
    MemoryStore().put("first", b"")
    # A shell ignores SIGINT for what it starts in the background, and so would every program that
    # a test starts to interrupt it.
    if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
        signal.signal(signal.SIGINT, signal.default_int_handler)
    # Neither what tests load, nor what programs do that they start, is for the user's own cache.
    os.environ["XDG_CACHE_HOME"] = _caches.name


def pytest_unconfigure() -> None:
    """Remove what the tests cached."""
    _caches.cleanup()


def pytest_asyncio_loop_factories(
    config: pytest.Config, item: pytest.Item
) -> Mapping[str, Callable[[], asyncio.AbstractEventLoop]]:
    """Run every async test on both loops."""
    return _LOOPS


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Have every async test checked for tasks, inside its loop."""
    items[:] = _on_either_loop(items)
    for item in items:
        if isinstance(item, pytest.Function) and inspect.iscoroutinefunction(item.function):
            item.fixturenames.append("no_task_left_behind")


def _on_either_loop(items: list[pytest.Item]) -> Iterator[pytest.Item]:
    """Leave out one loop of each case that is marked so: which one, the name decides."""
    for item in items:
        if isinstance(item, pytest.Function) and item.get_closest_marker("either_loop"):
            loop, _, case = item.callspec.id.partition("-")
            if loop != list(_LOOPS)[zlib.crc32(case.encode()) % 2]:
                continue
        yield item


@pytest.fixture(autouse=True)
def nothing_left_behind() -> Iterator[None]:
    """Fail a test that leaves threads, processes, descriptors or shared segments.

    Set up before the loop, and so torn down after it was closed.
    """
    before = snapshot()
    yield
    lines = leaked(before)
    if lines:
        pytest.fail("left behind:\n  " + "\n  ".join(lines), pytrace=False)


@pytest.fixture
async def no_task_left_behind() -> AsyncIterator[None]:
    """Fail a test that ends while a task it started still runs."""
    yield
    deadline = asyncio.get_running_loop().time() + _TASK_PATIENCE
    while (tasks := _running()) and asyncio.get_running_loop().time() < deadline:
        await asyncio.sleep(0.01)
    if tasks:
        pytest.fail("tasks left behind:\n  " + "\n  ".join(map(repr, tasks)), pytrace=False)


def _running() -> list[asyncio.Task[object]]:
    own = asyncio.current_task()
    return [task for task in asyncio.all_tasks() if task is not own and not task.done()]
