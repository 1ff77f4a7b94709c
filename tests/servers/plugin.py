"""Fixtures of real servers. Each is started when the first test asks for it, and ends with the run.

Where one is not installed its tests skip, and say so; with CI=true they fail.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, ExitStack
from pathlib import Path
from typing import Protocol, TypeVar

import pytest

from tests.servers.azurite import Azurite
from tests.servers.daemon import Unavailable
from tests.servers.fault_process import FaultProcess, HttpFaults, TcpProxy
from tests.servers.faults.settings import HttpFault, TcpFaults
from tests.servers.rgw import Rgw
from tests.servers.web import Web

__all__ = ["MakeHttpFaults", "MakeTcpProxy", "azurite", "http_faults", "rgw", "tcp_proxy", "web"]

Server = TypeVar("Server", bound=AbstractContextManager[object])


class MakeTcpProxy(Protocol):
    """Opens a TCP proxy to the loopback port ``upstream``."""

    def __call__(self, upstream: int, faults: TcpFaults | None = None) -> TcpProxy: ...


class MakeHttpFaults(Protocol):
    """Opens an HTTP server of the files in a folder, or in front of a server's loopback port."""

    def __call__(self, origin: Path | int, *faults: HttpFault) -> HttpFaults: ...


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


@pytest.fixture(scope="session")
def fault_process() -> Iterator[FaultProcess]:
    """The process of all faulty servers."""
    with FaultProcess() as process:
        yield process


@pytest.fixture
def tcp_proxy(fault_process: FaultProcess) -> Iterator[MakeTcpProxy]:
    """Opens TCP proxies, closed when the test ends."""
    with ExitStack() as opened:

        def make(upstream: int, faults: TcpFaults | None = None) -> TcpProxy:
            return opened.enter_context(fault_process.tcp_proxy(upstream, faults))

        yield make


@pytest.fixture
def http_faults(fault_process: FaultProcess) -> Iterator[MakeHttpFaults]:
    """Opens HTTP servers whose answers go wrong, closed when the test ends."""
    with ExitStack() as opened:

        def make(origin: Path | int, *faults: HttpFault) -> HttpFaults:
            return opened.enter_context(fault_process.http_faults(origin, *faults))

        yield make
