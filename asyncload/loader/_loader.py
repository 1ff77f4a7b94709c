"""`Loader`: owns workers, memory budget and construction thread, and runs loads on them."""

from __future__ import annotations

import functools
import os
from collections.abc import AsyncGenerator, Awaitable, Callable, Iterable, Mapping
from concurrent.futures import Executor, ThreadPoolExecutor
from contextlib import aclosing
from typing import Any, Literal, Self, TypeVar

import numpy.typing as npt

from asyncload.closing import Closing
from asyncload.cpu_time import count_as_ours
from asyncload.events import Kind, Observer
from asyncload.interfaces import MAX_TENSORS, Bounds
from asyncload.manifest import Manifest
from asyncload.materialize.quiet import responsive
from asyncload.memory import ArenaPool, Budget, SlabPool, parse_size
from asyncload.resting import carried
from asyncload.sources import CACHE_BYTES, Stores
from asyncload.workers import PARSE_LIMITS, Limits, Workers

from ._brief import Brief, brief
from ._files import Files
from ._flow import Flow
from ._groups import first_error
from ._host import Host
from ._index_cache import IndexCache
from ._launch import Launcher
from ._load import Load
from ._options import (
    URI,
    IntoRequest,
    LoadRequest,
    ManyRequest,
    OnChange,
    PrefetchRequest,
    Priority,
    several_uris,
)
from ._pace import MAX_STALL_MS, Pace
from ._parts import PartResult, map_parts, memory_there_is
from ._recall import Work
from ._reports import guarded
from ._resources import Resources
from ._sharing import key_of_load, key_of_weights
from ._storage import merge_options, object_cache
from ._takes import takes
from ._weights import Weights

__all__ = ["Loader"]

Array = npt.NDArray[Any]
Result = TypeVar("Result")

# Of the memory that there is: what is left is for what serves meanwhile.
_MEMORY_SHARE = 0.75
_KEEP_SHARE = 0.25  # of the memory budget
_PARTS_AHEAD = 2  # parts read while every worker decodes one


class Loader(Files, Closing):
    """Loads models and weights, several at once, with one set of workers and one budget.

    Use it as an async context manager; closing it cancels the loads under way and ends its
    workers. Its methods belong to the loop that it was made in.

    Args:
        executor: where CPU is spent on indexing and decoding: ``"process"`` (worker processes,
            started when first needed), ``"thread"``, or any `concurrent.futures.Executor`, which
            stays the caller's.
        processes: how many workers; by default one for each CPU.
        memory: bytes (or text such as ``"4GiB"``) that all loads together may have in flight or
            hold before they hand over their result; by default three quarters of what
            there is: of the machine's memory, or of what its container has left below its limits.
            A load larger than that runs alone, and the first one is logged.
        keep: bytes of memory of dropped models and weights that are kept for the next ones, which
            load faster into memory that exists; marked as free, so that the system takes it when
            it runs short; by default a quarter of ``memory``, 0 for none.
        index_cache: whether the index of a file that is costly to index (HDF5, and so ``.keras``)
            is kept for the next load of the same version of it, by this or another process of the
            user: ``True`` for the user's cache directory, or the path of another folder. Files
            changed less than 2 s before are not kept, nor what is only in memory.
        cache: ``"read"`` keeps what is fetched from object storage and HTTP servers on this
            machine's disk, by version, for the next load by this or another process of the user.
            That asks the store for each object's version (one HEAD, with the caller's credentials)
            and compares checksums of all that it reads from disk. By default ``"off"``: a disk is
            not a library's to fill unasked. An object whose server names no lasting version is
            never kept, nor one of HTTP that changed less than 2 s before. A disk that is full or
            cannot be written to costs a warning, and no load.
        cache_dir: where; by default ``asyncload/objects`` in the user's cache directory.
        cache_bytes: that it may take there (or text such as ``"20GiB"``); what was not used for
            the longest time goes first.
        offline: ask no store, and load what is in the cache: of each URI the files, in the
            versions, that the last load of it with ``cache="read"`` found. What is not there is
            `NotFound`.
        storage_options: how object storage and HTTP servers are reached; what is not said here is
            taken from the environment, as each store's own tools do. For all stores: ``endpoint``
            (a URL), ``anonymous``, ``headers``, ``ca_file``, ``timeouts`` (seconds: ``connect``,
            ``read`` for a stall, ``total`` for a request with its retries), ``retries``,
            ``concurrency`` (requests in flight to a bucket or server; by default as many as the
            link rewards), ``part_size`` (of one request). S3: ``region``, ``profile``,
            ``access_key_id``, ``secret_access_key``, ``session_token``. GCS:
            ``service_account``, ``service_account_key``. Azure: ``account_name``,
            ``account_key``, ``sas_token``, ``connection_string``. And whatever else obstore's
            store of that kind is configured with. Credentials are read once for each bucket.
        max_stall_ms: milliseconds for which loads in the background may hold this loop up. Those
            that do go slower (`Progress.pace`), and so they do beside a busy program. While that
            leaves half of the CPUs that it may use, each thread that loads works six tenths of the
            time at least: a load takes three times as long as on demand at most. Beside a busier
            program, all of them together take a share of one CPU only, down to three hundredths,
            and a load may take many times as long. What other processes of the machine do slows
            nothing. ``None`` for no such bound, and to go on however busy the program is.
        max_tensors: that a file may have, or members if it is an archive; ``None`` for any number.
        max_worker_seconds: of CPU time that a worker process may spend on one job (an index, or a
            few MiB to decode), before the file is refused with `TooLarge`; ``None`` for any number.
        max_worker_memory: bytes (or text such as ``"4GiB"``) of memory of its own that it may use
            on one job; ``None`` for any number.
        observer: called with every `Event` of every load, on the loop's thread. If it raises, that
            is logged once, and spoils nothing.
    """

    def __init__(
        self,
        *,
        executor: Literal["process", "thread"] | Executor = "process",
        processes: int | None = None,
        memory: int | str | None = None,
        keep: int | str | None = None,
        index_cache: bool | str | os.PathLike[str] = True,
        cache: Literal["off", "read"] = "off",
        cache_dir: str | os.PathLike[str] | None = None,
        cache_bytes: int | str = CACHE_BYTES,
        offline: bool = False,
        storage_options: Mapping[str, Any] | None = None,
        max_stall_ms: float | None = MAX_STALL_MS,
        max_tensors: int | None = MAX_TENSORS,
        max_worker_seconds: float | None = PARSE_LIMITS.cpu,
        max_worker_memory: int | str | None = PARSE_LIMITS.memory,
        observer: Observer | None = None,
    ) -> None:
        self._storage_options = merge_options({}, storage_options)
        limit = int(memory_there_is() * _MEMORY_SHARE) if memory is None else parse_size(memory)
        self._memory = limit
        self._host = Host(self._release, self._abandon)
        self._resources = Resources(
            workers=Workers(
                executor,
                processes=processes,
                limits=Limits(
                    None if max_worker_memory is None else parse_size(max_worker_memory),
                    max_worker_seconds,
                ),
            ),
            slabs=SlabPool(),
            arenas=ArenaPool(int(limit * _KEEP_SHARE) if keep is None else parse_size(keep)),
            budget=Budget(limit),
            builder=ThreadPoolExecutor(
                1, thread_name_prefix="asyncload-build", initializer=count_as_ours
            ),
            index_cache=IndexCache.chosen(index_cache),
            stores=Stores(),
            object_cache=object_cache(cache, cache_dir, cache_bytes, offline=offline),
            pace=Pace(max_stall_ms),
            spare_time=self._in_spare_time,
            bounds=Bounds(max_tensors, limit),
        )
        self._launcher = Launcher(self._host, self._resources, observer)

    # --- its life ------------------------------------------------------------------------

    async def __aenter__(self) -> Self:
        self._host.open()
        return self

    async def aclose(self) -> None:
        """Cancel the loads under way, and end workers and threads; closing twice is fine."""
        await self._host.aclose()

    @property
    def memory(self) -> int:
        """Bytes that all loads together may have in flight or hold."""
        return self._memory

    @property
    def closed(self) -> bool:
        """Whether `aclose` was called, or the loop ended."""
        return self._host.closed

    async def _release(self) -> None:
        await self._resources.aclose()

    def _abandon(self) -> None:
        self._resources.abandon()

    def _in_spare_time(self, work: Work) -> None:
        def in_thread() -> None:
            with responsive():
                work()

        self._host.in_spare_time(self._resources.workers.threads, carried(in_thread))

    @property
    def budget(self) -> Budget:
        """The memory that all loads may have in flight, and what is kept of them: see ``memory``.

        Who keeps models has them counted (`Load.retain`, or `Budget.keep`), and is asked for
        those that it can do without (`Budget.reclaimable`).
        """
        return self._resources.budget

    @property
    def pace(self) -> Pace:
        """How fast what is not urgent goes: see ``max_stall_ms``."""
        return self._resources.pace

    # --- loading -------------------------------------------------------------------------

    @takes(PrefetchRequest)
    def prefetch(self, request: PrefetchRequest) -> Load[Any]:
        """Start a load, and return it at once: a `Load`, to be awaited when its result is needed.

        Whoever awaits it needs it now: from then on, it goes as fast as a load on demand.

        Args: as `load` takes them; but ``priority`` is ``"background"`` by default.

        Raises:
            LoaderClosed: the Loader is closed.
        """
        return self._begin(request)

    def _begin(self, request: LoadRequest) -> Load[Any]:
        storage = self._storage(request.storage_options)
        start = self._launcher.start
        if request.shared and request.reuse is None:
            key = key_of_load(request.uri, request, storage)
            start = functools.partial(self._launcher.share, key=key)
        return start(
            request.uri,
            work=lambda flow: flow.load(request),
            kind="load",
            storage=storage,
            on_change=request.on_change,
            priority=request.priority,
            observer=request.observer,
        )

    @takes(LoadRequest)
    @brief
    async def load(self, request: LoadRequest) -> Any:
        """Load what a URI holds.

        All who ask for the same URI with the same options while it is being loaded share one load,
        and are given the same object; unless the file was replaced meanwhile: nobody gets an older
        version than what stands at the URI when it asks. Options are the same if they are equal;
        functions, classes, arrays and other objects among them if they are identical. Cancelling
        one who asked leaves the others waiting.

        Args:
            uri: a path, ``file://``, ``memory://``, ``s3://``, ``gs://``, ``az://`` or
                ``http(s)://``; of a file, of a SavedModel's folder (for HTTP with a slash at its
                end), or of a checkpoint's prefix.
            priority: ``"demand"`` for what is needed now; ``"background"`` for what will be: it
                lets loads on demand go first, and waits where memory is short. A load on demand
                of the same URI makes a load in the background as urgent as itself.
            custom_objects: name -> class or function, for models that use the caller's own.
            compile: compile a Keras model as it was when saved, optimizer state included.
            safe_mode: refuse Keras models that could run code while they load.
            signatures: which signatures of a SavedModel are served, one name or several; by default
                all.
            tags: which graph of a SavedModel is loaded: the one that has exactly these, one tag or
                several. By default it is the only graph; of several, the one that has the tag
                ``"serve"`` alone, as in TensorFlow Serving.
            whole: make the object that ``tf.saved_model.load`` makes of a SavedModel, in the place
                of its signatures.
            trusted: whether the SavedModel, which is a program, may run; by default if its files
                are on this machine, and are no copy that `fetch` brought from elsewhere.
            verify: compare the checksums that a checkpoint or a SavedModel has of its tensors.
            warmup: call the model off the loop before it is handed over, so that the first request
                is as fast as the next: inputs for it, or ``True`` for inputs made to its
                specification or those that were saved with it.
            limits: how much the config of a Keras model may ask for; ``None`` for anything.
            reuse: a Keras model or `Signatures` that an earlier load returned and that nobody uses
                any more. If what is loaded differs from it in its values only, it gets these, and
                is what is returned: nothing is built, and what was traced of it stays traced. It
                has all of them or, if that fails, its old ones. Otherwise it is left as it is, and
                a `FellBack` event says why.
            shared: whether whoever asks for the same meanwhile may get the same object; ``False``
                for a model of one's own, to be changed. With ``reuse`` it never is.
            storage_options: those of the Loader, changed for this load.
            on_change: what to do if a file is replaced while it is read: ``"error"``, or
                ``"restart"`` to load the new version from its start, three times at most.
            observer: called with every `Event` of this load, as the Loader's is.

        Returns:
            A ``keras.Model`` for a ``.keras`` or a legacy ``.h5`` file, equal to what
            ``keras.models.load_model`` makes; its variables share memory with the bytes that were
            read until they are first updated. `Signatures` for a SavedModel. `Weights` for files
            that hold no model.

        Raises:
            SourceError: the bytes could not be had.
            FormatError: they are not what they should be.
            MismatchError: weights and model do not fit.
            WorkerCrashed: a worker process died twice on this file.
            MemoryLimitExceeded: the system has no memory left for it.
            LoaderClosed: the Loader is, or was, closed.
            TypeError: an option is unknown, or asks for what this format has not: `NotApplicable`.
                Options that only allow something, or leave it out (``custom_objects``,
                ``compile=False``, ``safe_mode=False``, ``trusted``, ``verify``), fit every format.
        """
        load = self._begin(request)
        return await (load if request.reuse is None else load.settled())

    @brief
    async def load_weights(
        self,
        uri: URI,
        *,
        priority: Priority = "demand",
        verify: bool = True,
        storage_options: Mapping[str, Any] | None = None,
        on_change: OnChange = "error",
        observer: Observer | None = None,
    ) -> Weights:
        """Load the tensors of a file of any format, without building a model or TensorFlow.

        Args:
            uri: as `load` takes it.
            priority: as `load` takes it.
            verify: compare the checksums that a checkpoint has of its tensors; one that is wrong
                is `Corrupt`.
            storage_options: as `load` takes them.
            on_change: as `load` takes it.
            observer: as `load` takes it.

        Returns:
            Name -> read-only array, names as the file has them (``layers/dense/vars/0``). All who
            ask for the same at the same time get the same object, as from `load`.

        Raises: as `load` does, but for `MismatchError`.
        """
        storage = self._storage(storage_options)
        return await self._launcher.share(
            uri,
            lambda flow: flow.weights(verify=verify),
            kind="weights",
            key=key_of_weights(uri, verify, on_change, storage),
            storage=storage,
            on_change=on_change,
            priority=priority,
            observer=observer,
        )

    @takes(IntoRequest)
    @brief
    async def load_into(self, request: IntoRequest) -> None:
        """Load new values into an object that lives: all of them, or none.

        Everything is read and compared with the object before its first variable changes; what
        fails before that, or is cancelled, leaves every value as it was. What was traced stays
        traced. Variables change one after the other: what runs meanwhile, in another thread,
        may see some old values and some new.

        Args:
            target: a ``keras.Model`` or ``keras.Layer`` that is built; it gets what its
                ``load_weights`` would give it. For checkpoints, anything that
                ``tf.train.Checkpoint`` takes, its variables made, its optimizers built.
            uri: of a ``.keras`` file, Keras weights (``.weights.h5``, ``.weights.json``, legacy
                ``.h5``), safetensors or npz whose names are the paths of the variables, a
                checkpoint or a SavedModel.
            by_name: from a legacy ``.h5``, load layers by their names and not their positions;
                those that have no namesake in the file stay as they are.
            skip_mismatch: from a file of Keras, leave what does not fit as it is, with a warning.
            partial: from a checkpoint, restore what both have, as ``expect_partial`` of
                TensorFlow's ``restore`` does; by default each has to have all of the other.
            verify: compare the checksums that a checkpoint has of its tensors.
            storage_options, on_change, observer: as `load` takes them.

        Raises:
            SourceError: the bytes could not be had.
            FormatError: they are not what they should be, or cannot be loaded into anything.
            MismatchError: file and target do not fit; names everything that does not.
            TypeError: the target is of a kind that the file cannot be loaded into; or an option is
                unknown, or of no use for this format: `NotApplicable`.
            WorkerCrashed, MemoryLimitExceeded, LoaderClosed: as `load`.
        """
        load = self._start(
            request.uri,
            lambda flow: flow.into(request.target, request),
            kind="load",
            storage_options=request.storage_options,
            on_change=request.on_change,
            observer=request.observer,
        )
        await load.settled()

    @brief
    async def inspect(
        self,
        uri: URI,
        *,
        kind: Literal["inspect", "watch"] = "inspect",
        storage_options: Mapping[str, Any] | None = None,
        observer: Observer | None = None,
    ) -> Manifest:
        """Read the index of a file, and none of its tensors.

        Args:
            uri: as `load` takes it.
            kind: of its events: ``"watch"`` if this is to see whether a version is whole.
            storage_options: as `load` takes them.
            observer: as `load` takes it.

        Raises: as `load` does, but for `MismatchError` and `MemoryLimitExceeded`.
        """
        return await self._start(
            uri,
            lambda flow: flow.inspect(),
            kind=kind,
            storage_options=storage_options,
            observer=observer,
        )

    @brief
    async def names(
        self, uri: URI, *, storage_options: Mapping[str, Any] | None = None
    ) -> list[str] | None:
        """Return the names of files and folders in the folder that a URI names.

        Args:
            uri: as `load` takes it; of any folder of a store that lists its folders (HTTP does
                not).
            storage_options: as `load` takes them.

        Returns:
            The names, sorted; ``None`` where the URI names a file.

        Raises:
            SourceError: the folder is not there, or cannot be listed.
            LoaderClosed: the Loader is, or was, closed.
        """
        return await self._start(
            uri, lambda flow: flow.names(), kind="list", storage_options=storage_options
        )

    async def stream(
        self,
        uri: URI,
        *,
        storage_options: Mapping[str, Any] | None = None,
        observer: Observer | None = None,
    ) -> AsyncGenerator[tuple[str, Array], None]:
        """Yield (name, read-only array) as tensors complete, in no set order.

        Leaving the iteration early stops the reads; use `contextlib.aclosing` to have that
        happen at once.

        Args:
            uri: as `load` takes it.
            storage_options: as `load` takes them.
            observer: as `load` takes it.

        Raises: as `load_weights` does.
        """
        storage = self._storage(storage_options)
        reports = self._launcher.reports(uri, "weights", observer)
        flow = Flow(uri, self._resources, storage, emit=reports.emit)
        with Brief(), reports.reported():
            async with aclosing(flow.stream()) as tensors:
                async for item in tensors:
                    yield item

    @takes(ManyRequest)
    @brief
    async def load_many(self, request: ManyRequest) -> list[Any]:
        """Load several URIs at once.

        Args:
            uris: each as `load` takes it.
            return_exceptions: put what a load raised in its place in the list, so that one broken
                part spoils no other. Otherwise the first error cancels the rest and is raised.
            priority, custom_objects, and so on: as `load` takes them, for each of the loads.

        Returns:
            A result for each URI, in their order; the same for URIs that are the same.
        """
        loads = [self._begin(each) for each in request.each()]
        results: list[Any] = [None] * len(loads)

        async def collect(index: int) -> None:
            try:
                results[index] = await loads[index]
            except Exception as error:
                if not request.return_exceptions:
                    raise
                results[index] = error

        async with first_error() as group:
            for index in range(len(loads)):
                group.start_soon(collect, index)
        return results

    async def map_parts(
        self,
        decode: Callable[[memoryview], Mapping[str, Array]],
        uris: Iterable[URI],
        *,
        storage_options: Mapping[str, Any] | None = None,
        observer: Observer | None = None,
    ) -> AsyncGenerator[PartResult, None]:
        """Run a function of the caller's on the bytes of each file, in worker processes.

        Args:
            decode: called with a read-only memoryview of a whole file's bytes, valid during the
                call; returns name -> array. Closures and functions of ``__main__`` work too.
            uris: the parts.
            storage_options: as `load` takes them.
            observer: as `load` takes it.

        Yields:
            A `PartResult` for each part as it completes; one broken part spoils no other.
        """
        window = self._resources.workers.processes + _PARTS_AHEAD
        start = functools.partial(
            self._start,
            work=lambda flow: flow.part(decode),
            kind="weights",
            storage_options=storage_options,
            observer=guarded(observer),
        )
        async with aclosing(map_parts(several_uris("map_parts", uris), start, window)) as results:
            async for result in results:
                yield result

    def _start(
        self,
        uri: URI,
        work: Callable[[Flow], Awaitable[Result]],
        *,
        kind: Kind,
        storage_options: Mapping[str, Any] | None = None,
        on_change: OnChange = "error",
        observer: Observer | None = None,
    ) -> Load[Result]:
        storage = self._storage(storage_options)
        return self._launcher.start(
            uri, work, kind=kind, storage=storage, on_change=on_change, observer=observer
        )

    def _storage(self, own: Mapping[str, Any] | None) -> Mapping[str, Any]:
        """Open this Loader, and return its ``storage_options`` with those of a call."""
        self._host.open()
        return merge_options(self._storage_options, own)
