"""Sources: where bytes come from.

`open_source` takes a path, or a URI of a store. A source opens files, each pinned to the version
it has, and readers read ranges of them; neither knows what the bytes mean.

- this machine: ``_local``, ``_memory``, over ``_base`` and ``_reader``; what is a copy: ``_origin``
- object storage and HTTP: ``_object``, ``_object_reader``, ``_object_version``; shared by the
  loads of a Loader: ``_object_stores``, ``_request_limit``; how a store is reached:
  ``_storage_options``, ``_store_settings``, ``_aws_profile``; what answers mean: ``_answers``,
  ``_stated``, ``_folder_marks``
- with obstore, which is imported late: ``_store_client``, ``_object_requests``,
  ``_client_calls``, ``_client_errors``
- with aiohttp, imported as late: ``_http_store``, ``_http_client``, ``_http_errors``, over
  ``_redirects`` and ``_loop_thread``
- of stores, kept on this machine's disk: ``_cached`` and ``_cached_reader``, over
  ``_object_cache``, ``_cache_entry``, ``_cache_record``; what is the same object: ``_cache_key``
- of other packages: ``_entry_points``
"""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping
from concurrent.futures import Executor
from typing import Any

from asyncload.errors import SourceError
from asyncload.interfaces import Source
from asyncload.redaction import shown

from ._cached import CachedSource, OfflineSource
from ._entry_points import EntryPointSource
from ._local import LocalSource
from ._location import SCHEMES, Location, check_name, file_path, locate, scheme_of
from ._memory import MemorySource, forget_memory, put_memory
from ._object import ObjectSource
from ._object_cache import CACHE_BYTES, ObjectCache
from ._object_stores import Stores
from ._origin import NOTE, OWN, note_name
from ._reader import LocalReader
from ._storage_options import StorageOptions
from ._threads import in_thread

__all__ = [
    "CACHE_BYTES",
    "NOTE",
    "OWN",
    "LocalReader",
    "LocalSource",
    "MemorySource",
    "ObjectCache",
    "ObjectSource",
    "StorageOptions",
    "Stores",
    "check_name",
    "file_path",
    "forget_memory",
    "in_thread",
    "note_name",
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
    cache: ObjectCache | None = None,
) -> Source:
    """Return the source that a URI names; nothing is touched before its methods are called.

    Args:
        uri: a path, ``file://``, ``memory://``, ``s3://``, ``gs://``, ``az://``, ``http(s)://``, or
            of a scheme that another package reads.
        threads: where blocking reads run; ``None`` for the loop's default executor.
        stores: connections that are shared; ``None`` for some of its own.
        options: ``storage_options``, for stores.
        cache: where objects of stores are kept; ``None`` for nowhere.

    Raises:
        SourceError: the URI cannot be taken apart, or another package's source is to be offline.
    """
    scheme = scheme_of(uri)
    if scheme is not None and scheme not in SCHEMES:
        if cache is not None and cache.offline:
            raise SourceError(
                f"nothing of {scheme}:// URIs is ever cached, so that offline=True has none of "
                "it; load it without offline=True",
                uri=shown(uri),
            )
        return EntryPointSource(uri, scheme, threads, options or {})
    location = locate(uri)
    if location.scheme in _MACHINE:
        return _MACHINE[location.scheme](location, threads)
    if cache is None:
        return ObjectSource(location, threads, stores=stores, options=options)
    if cache.offline:
        return OfflineSource(location, threads, options=options, cache=cache)
    return CachedSource(location, threads, stores=stores, options=options, cache=cache)
