"""``asyncload.load`` and the other functions, on a Loader that belongs to the running loop."""

from __future__ import annotations

import asyncio
import os
from collections.abc import AsyncGenerator, Callable, Iterable, Mapping
from typing import Any, Unpack
from weakref import WeakKeyDictionary

from asyncload.interfaces import ListEntry
from asyncload.manifest import Manifest

from ._fetch import Fetched
from ._load import Load
from ._loader import URI, Array, Loader
from ._options import IntoKeywords, LoadKeywords, OnChange, Priority
from ._parts import PartResult
from ._weights import Weights

__all__ = [
    "aclose",
    "default_loader",
    "fetch",
    "inspect",
    "load",
    "load_into",
    "load_many",
    "load_weights",
    "ls",
    "map_parts",
    "prefetch",
    "stream",
]

_loaders: WeakKeyDictionary[asyncio.AbstractEventLoop, Loader] = WeakKeyDictionary()


def default_loader() -> Loader:
    """Return the running loop's Loader; its task ends, and closes it, with the loop."""
    loop = asyncio.get_running_loop()
    loader = _loaders.get(loop)
    if loader is None or loader.closed:
        loader = _loaders[loop] = Loader()
    return loader


async def aclose() -> None:
    """Close the running loop's default Loader; the next call makes a new one."""
    loader = _loaders.pop(asyncio.get_running_loop(), None)
    if loader is not None:
        await loader.aclose()


def prefetch(
    uri: URI, *, priority: Priority = "background", **options: Unpack[LoadKeywords]
) -> Load[Any]:
    """Start a load on the running loop's Loader; see `Loader.prefetch`."""
    return default_loader().prefetch(uri, priority=priority, **options)


async def load(uri: URI, *, priority: Priority = "demand", **options: Unpack[LoadKeywords]) -> Any:
    """Load what a URI holds, on the running loop's Loader; see `Loader.load`."""
    return await default_loader().load(uri, priority=priority, **options)


async def load_into(target: Any, uri: URI, **options: Unpack[IntoKeywords]) -> None:
    """Load new values into an object, on the running loop's Loader; see `Loader.load_into`."""
    await default_loader().load_into(target, uri, **options)


async def load_weights(
    uri: URI,
    *,
    priority: Priority = "demand",
    verify: bool = True,
    storage_options: Mapping[str, Any] | None = None,
    on_change: OnChange = "error",
) -> Weights:
    """Load the tensors of a file, on the running loop's Loader; see `Loader.load_weights`."""
    return await default_loader().load_weights(
        uri, priority=priority, verify=verify, storage_options=storage_options, on_change=on_change
    )


async def inspect(uri: URI, *, storage_options: Mapping[str, Any] | None = None) -> Manifest:
    """Read the index of a file, on the running loop's Loader; see `Loader.inspect`."""
    return await default_loader().inspect(uri, storage_options=storage_options)


async def ls(
    uri: URI, *, recursive: bool = False, storage_options: Mapping[str, Any] | None = None
) -> list[ListEntry]:
    """List what is at a URI, on the running loop's Loader; see `Loader.ls`."""
    return await default_loader().ls(uri, recursive=recursive, storage_options=storage_options)


async def fetch(
    uri: URI,
    folder: str | os.PathLike[str],
    *,
    overwrite: bool = False,
    verify: bool = True,
    storage_options: Mapping[str, Any] | None = None,
    on_change: OnChange = "error",
) -> Fetched:
    """Copy what a load would read into a folder, on the running loop's Loader; `Loader.fetch`."""
    return await default_loader().fetch(
        uri,
        folder,
        overwrite=overwrite,
        verify=verify,
        storage_options=storage_options,
        on_change=on_change,
    )


def stream(
    uri: URI, *, storage_options: Mapping[str, Any] | None = None
) -> AsyncGenerator[tuple[str, Array], None]:
    """Yield tensors as they complete, on the running loop's Loader; see `Loader.stream`."""
    return default_loader().stream(uri, storage_options=storage_options)


async def load_many(
    uris: Iterable[URI],
    *,
    return_exceptions: bool = False,
    storage_options: Mapping[str, Any] | None = None,
) -> list[Any]:
    """Load several URIs at once, on the running loop's Loader; see `Loader.load_many`."""
    return await default_loader().load_many(
        uris, return_exceptions=return_exceptions, storage_options=storage_options
    )


def map_parts(
    decode: Callable[[memoryview], Mapping[str, Array]],
    uris: Iterable[URI],
    *,
    storage_options: Mapping[str, Any] | None = None,
) -> AsyncGenerator[PartResult, None]:
    """Run ``decode`` on each file, on the running loop's Loader; see `Loader.map_parts`."""
    return default_loader().map_parts(decode, uris, storage_options=storage_options)
