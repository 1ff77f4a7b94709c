"""Load TensorFlow and Keras models inside asyncio programs: ``await asyncload.load(uri)``.

A map of the house; each room imports only from rooms above it::

    redaction, cgroups                     what texts show of URIs; what a container may use
    errors, events, manifest, interfaces   the words, and the seams between rooms
    cache_folder                           a bounded folder that processes share
    closing                                what an async with block closes
    collecting                             the garbage collector, held while much is made
    forks                                  what a forked process cannot use
    sources/     where bytes come from: a URI becomes files that can be read
    formats/     what bytes mean: a file becomes a Manifest, the index of its tensors
    codecs       how encoded bytes become an array
    memory       the byte budget, aligned arenas, slabs shared with workers
    workers      the worker processes
    pipeline/    the overlap: Manifest -> reads -> bytes in place -> decoded tensors
    materialize/ tensors and documents -> models, signatures; the only room with TensorFlow
    loader/      Loader, Load, and the functions below
    serving/     ModelSlot, ModelCache: models that are used while others arrive
    report/      progress bar and timeline, from events alone
    sync         the functions for programs without an event loop
    cli          the ``asyncload`` command

Importing this package imports nothing heavy: names are looked up when first used.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from . import errors as errors
    from . import events as events
    from . import interfaces as interfaces
    from . import manifest as manifest
    from . import report as report
    from . import serving as serving
    from . import sources as sources
    from . import sync as sync
    from .errors import (
        AccessDenied,
        AsyncloadError,
        Corrupt,
        DecodeError,
        Forked,
        FormatError,
        LeaseTimeout,
        LoaderClosed,
        MemoryLimitExceeded,
        MismatchError,
        NotApplicable,
        NotFound,
        NotInstalled,
        ServingClosed,
        ServingError,
        SlotEmpty,
        SourceChanged,
        SourceError,
        SwapRefused,
        SwapSuperseded,
        TooLarge,
        TransferFailed,
        UnknownFormat,
        Unsafe,
        WorkerCrashed,
        WouldOverwrite,
    )
    from .events import Event, Observer, Progress
    from .interfaces import Limits, ListEntry
    from .loader._default import (
        aclose,
        fetch,
        inspect,
        load,
        load_into,
        load_many,
        load_weights,
        ls,
        map_parts,
        prefetch,
        set_observer,
        stream,
    )
    from .loader._fetch import Fetched, FetchedFile
    from .loader._load import Load
    from .loader._loader import Loader
    from .loader._parts import PartResult
    from .loader._weights import Weights
    from .manifest import Manifest, TensorEntry
    from .materialize.served import Signature, Signatures
    from .serving._cache import ModelCache
    from .serving._slot import ModelSlot

_HOMES = {
    "errors": (
        "AccessDenied",
        "AsyncloadError",
        "Corrupt",
        "DecodeError",
        "Forked",
        "FormatError",
        "LeaseTimeout",
        "LoaderClosed",
        "MemoryLimitExceeded",
        "MismatchError",
        "NotApplicable",
        "NotFound",
        "NotInstalled",
        "ServingClosed",
        "ServingError",
        "SlotEmpty",
        "SourceChanged",
        "SourceError",
        "SwapRefused",
        "SwapSuperseded",
        "TooLarge",
        "TransferFailed",
        "UnknownFormat",
        "Unsafe",
        "WorkerCrashed",
        "WouldOverwrite",
    ),
    "events": ("Event", "Observer", "Progress"),
    "interfaces": ("Limits", "ListEntry"),
    "loader._default": (
        "aclose",
        "fetch",
        "inspect",
        "load",
        "load_into",
        "load_many",
        "load_weights",
        "ls",
        "map_parts",
        "prefetch",
        "set_observer",
        "stream",
    ),
    "loader._fetch": ("Fetched", "FetchedFile"),
    "loader._load": ("Load",),
    "loader._loader": ("Loader",),
    "loader._parts": ("PartResult",),
    "loader._weights": ("Weights",),
    "manifest": ("Manifest", "TensorEntry"),
    "materialize.served": ("Signature", "Signatures"),
    "serving._cache": ("ModelCache",),
    "serving._slot": ("ModelSlot",),
}
# Modules for users, imported when first named.
_ROOMS = ("errors", "events", "interfaces", "manifest", "report", "serving", "sources", "sync")
_HOME_OF = {name: home for home, names in _HOMES.items() for name in names}

__all__ = [
    "AccessDenied",
    "AsyncloadError",
    "Corrupt",
    "DecodeError",
    "Event",
    "Fetched",
    "FetchedFile",
    "Forked",
    "FormatError",
    "LeaseTimeout",
    "Limits",
    "ListEntry",
    "Load",
    "Loader",
    "LoaderClosed",
    "Manifest",
    "MemoryLimitExceeded",
    "MismatchError",
    "ModelCache",
    "ModelSlot",
    "NotApplicable",
    "NotFound",
    "NotInstalled",
    "Observer",
    "PartResult",
    "Progress",
    "ServingClosed",
    "ServingError",
    "Signature",
    "Signatures",
    "SlotEmpty",
    "SourceChanged",
    "SourceError",
    "SwapRefused",
    "SwapSuperseded",
    "TensorEntry",
    "TooLarge",
    "TransferFailed",
    "UnknownFormat",
    "Unsafe",
    "Weights",
    "WorkerCrashed",
    "WouldOverwrite",
    "aclose",
    "fetch",
    "inspect",
    "load",
    "load_into",
    "load_many",
    "load_weights",
    "ls",
    "map_parts",
    "prefetch",
    "set_observer",
    "stream",
]


if not TYPE_CHECKING:  # which would take any name for one of this module

    def __getattr__(name: str) -> Any:
        if name in _ROOMS:
            return importlib.import_module(f".{name}", __name__)
        home = _HOME_OF.get(name)
        if home is None:
            raise AttributeError(f"module {__name__!r} has no attribute {name!r}", name=name)
        value = getattr(importlib.import_module(f".{home}", __name__), name)
        globals()[name] = value
        return value


def __dir__() -> list[str]:
    own = (name for name in globals() if name.startswith("__"))
    return sorted({*own, *__all__, *_ROOMS})
