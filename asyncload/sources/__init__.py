"""Sources: where bytes come from.

`open_source` takes a path, or a URI of a store. A source opens files, each pinned to the version
it has, and readers read ranges of them; neither knows what the bytes mean.

- this machine: ``_local``, ``_memory``, over ``_base`` and ``_reader``
- object storage and HTTP: ``_object``, ``_object_reader``, ``_object_version``; shared by the
  loads of a Loader: ``_object_stores``, ``_request_limit``; how a store is reached:
  ``_storage_options``, ``_store_settings``, ``_aws_profile``; with obstore, which is imported
  late: ``_store_client``, ``_object_requests``, ``_client_calls``, ``_client_errors``; what stores
  state of whole objects: ``_stated``
- of other packages: ``_entry_points``
"""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping
from concurrent.futures import Executor
from typing import Any

from asyncload.interfaces import Source

from ._entry_points import EntryPointSource
from ._local import LocalSource
from ._location import SCHEMES, Location, check_name, file_path, locate, normalise, scheme_of
from ._memory import MemorySource, forget_memory, put_memory
from ._object import ObjectSource
from ._object_stores import Stores
from ._reader import LocalReader
from ._storage_options import StorageOptions
from ._threads import in_thread

__all__ = [
    "LocalReader",
    "LocalSource",
    "MemorySource",
    "ObjectSource",
    "StorageOptions",
    "Stores",
    "check_name",
    "file_path",
    "forget_memory",
    "in_thread",
    "normalise",
    "open_source",
    "put_memory",
]

_MACHINE: Mapping[str, Callable[[Location, Executor | None], Source]] = {
    "file": LocalSource,
    "memory": MemorySource,
}


def open_source(
    uri: str | os.PathLike[str],
    *,
    threads: Executor | None = None,
    stores: Stores | None = None,
    options: Mapping[str, Any] | None = None,
) -> Source:
    """Return the source that a URI names; nothing is touched before its methods are called.

    Args:
        uri: a path, ``file://``, ``memory://``, ``s3://``, ``gs://``, ``az://``, ``http(s)://``, or
            of a scheme that another package reads.
        threads: where blocking reads run; ``None`` for the loop's default executor.
        stores: connections that are shared; ``None`` for some of its own.
        options: ``storage_options``, for stores.

    Raises:
        SourceError: the URI cannot be taken apart.
    """
    scheme = scheme_of(uri)
    if scheme is not None and scheme not in SCHEMES:
        return EntryPointSource(uri, scheme, threads, options or {})
    location = locate(uri)
    if location.scheme in _MACHINE:
        return _MACHINE[location.scheme](location, threads)
    return ObjectSource(location, threads, stores=stores, options=options)
