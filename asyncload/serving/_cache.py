"""`ModelCache`: many models by URI; the one that was used least recently goes first."""

from __future__ import annotations

import asyncio
import os
from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Any, Literal

from asyncload.closing import Closing
from asyncload.errors import MemoryLimitExceeded, ServingClosed
from asyncload.events import Finished, Indexed
from asyncload.forks import Origin
from asyncload.loader._default import default_loader
from asyncload.loader._load import Load
from asyncload.loader._loader import Loader
from asyncload.loader._options import ModelOptions, Priority
from asyncload.loader._parts import physical_memory
from asyncload.loader._retained import Retained
from asyncload.loader._takes import takes
from asyncload.memory import parse_size

from ._bring import begin
from ._lease import LEASE_TIMEOUT, Generation, Lease, Target, holders
from ._lru import Share, to_evict
from ._spare import emptied

__all__ = ["CacheStatus", "CachedModel", "ModelCache"]

URI = str | os.PathLike[str]


@dataclass(frozen=True, slots=True)
class CachedModel:
    """One model of a cache.

    Attributes:
        uri: without credentials.
        state: ``"loading"`` or ``"available"``.
        nbytes: of its tensors; 0 until that is known.
        leases: how many hold it.
    """

    uri: str
    state: Literal["loading", "available"]
    nbytes: int
    leases: int


@dataclass(frozen=True, slots=True)
class CacheStatus:
    """A cache at one moment.

    Attributes:
        nbytes: of the tensors of all its models, those included that are being loaded.
        max_bytes: that it may have at most.
        models: the one used least recently first.
    """

    nbytes: int
    max_bytes: int
    models: tuple[CachedModel, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class CacheOptions(ModelOptions):
    # What `ModelCache` takes.
    loader: Loader | None = field(default=None, kw_only=False)
    max_bytes: int | str
    lease_timeout: float | None = LEASE_TIMEOUT


class _Cached:
    """What a cache has of one URI."""

    def __init__(self, target: Target) -> None:
        self.target = target
        self.nbytes = 0  # that count; 0 until there is room for them
        self.waiting = 0  # tasks that are to get it
        self.generation: Generation | None = None
        self.ready: asyncio.Future[Generation] = asyncio.get_running_loop().create_future()
        self.task: asyncio.Task[None] | None = None
        self.priority: Priority = "background"
        self.load: Load[Any] | None = None

    def promote(self) -> None:
        """Let its load go before those that nobody needs yet."""
        self.priority = "demand"
        if self.load is not None:
            self.load.promote()

    @property
    def share(self) -> Share:
        """What it takes, and whether that may be taken from it."""
        idle = self.generation is not None and not self.generation.leases and not self.waiting
        return Share(self.target.uri, self.nbytes, idle)

    def settle(self, error: BaseException | None) -> None:
        """Tell whoever waits for it that it will not come."""
        if error is not None and not self.ready.done():
            self.ready.set_exception(error)
            self.ready.exception()  # no news to log if nobody waits any more


@dataclass(frozen=True, slots=True)
class _Request:
    """Where the lease of one URI gets its model; a `Lessor`."""

    cache: ModelCache
    uri: str = field(repr=False)  # as given

    @property
    def current(self) -> Generation | None:
        return self.cache._touch(self.uri)

    async def find(self, version: int | None) -> Generation:
        del version
        return await self.cache._find(self.uri, "demand")


class ModelCache(Closing):
    """Models by URI, within a number of bytes; of the loop's thread.

    What was used least recently is dropped to make room, but nothing that is leased, and nothing
    that somebody who asked for it has yet to get::

        async with asyncload.ModelCache(loader, max_bytes="8GiB") as cache:
            async with cache.get("s3://models/a.keras") as model:
                ...

    A URI is loaded once, however many ask for it at once, and stays what it was when it was loaded:
    `evict` it if its file was replaced. A model is the cache's own: whoever keeps it beyond the
    lease finds its values gone.

    Args:
        loader: loads; by default that of the running loop.
        max_bytes: of the tensors of all models together, those included that are being loaded; an
            int, or a text such as ``"8GiB"``.
        lease_timeout: seconds that a load waits for room while all of it is leased, and leaving
            waits for leases; ``None`` for as long as they last.
        custom_objects, compile, and so on: for each load, as `Loader.load` takes them.

    Raises:
        MemoryLimitExceeded: ``max_bytes`` is more than the machine or the Loader may use.
    """

    @takes(CacheOptions)
    def __init__(self, options: CacheOptions) -> None:
        self._loader = default_loader() if options.loader is None else options.loader
        self._max_bytes = parse_size(options.max_bytes)
        _check_limit(self._max_bytes, self._loader.memory)
        self._lease_timeout = options.lease_timeout
        self._options = options
        self._models: dict[str, _Cached] = {}  # the one used least recently first
        self._dropped: list[tuple[Any, Retained]] = []  # models that are yet to be emptied
        self._going = 0  # bytes of them
        self._emptying: asyncio.Task[None] | None = None
        self._unregister = self._loader.budget.reclaimable(self._reclaim)
        self._room = asyncio.Lock()
        self._origin = Origin("this cache")
        self._news = asyncio.Event()
        self._closed = False

    # --- its life ------------------------------------------------------------------------

    async def aclose(self) -> None:
        """Stop loads, wait for leases up to ``lease_timeout``, and drop all models.

        A lease that lasts longer keeps its model until it ends. Closing twice is fine.
        """
        if not self._origin.is_here:
            return
        self._closed = True
        tasks = [cached.task for cached in self._models.values() if cached.task is not None]
        for task in tasks:
            task.cancel()
        if tasks:
            await asyncio.wait(tasks)
        own = asyncio.current_task()
        try:
            async with asyncio.timeout(self._lease_timeout):
                for cached in list(self._models.values()):
                    generation = cached.generation
                    if generation and not any(each.is_of(own) for each in generation.leases):
                        await generation.unheld()
        except TimeoutError:
            pass
        for uri in list(self._models):
            self._drop(uri)
        self._unregister()
        await self._empty()
        if self._emptying is not None:
            await asyncio.wait([self._emptying])

    # --- models ----------------------------------------------------------------------------

    def get(self, uri: URI) -> Lease:
        """Return a lease of a model, for one ``async with`` block, which gives the model.

        It is loaded if it is not there. Whoever asks meanwhile waits for the same load; if all who
        wait are cancelled, so is the load. The model stays as long as it is leased; `Lease`
        says more.

        Args:
            uri: as `Loader.load` takes it.

        Raises:
            MemoryLimitExceeded: on entering: it is larger than ``max_bytes``, or everything was
                leased for ``lease_timeout`` seconds; the message says by whom.
            ServingClosed: on entering: the cache was closed.
            Forked: the cache belongs to the process that this one was forked from.
            Exception: on entering: as `Loader.load`.
        """
        self._origin.check(Target(os.fsdecode(uri)).shown)
        return Lease(_Request(self, os.fsdecode(uri)))

    async def preload(self, uris: Iterable[URI]) -> None:
        """Load models that will be asked for, and wait until they are there.

        Args:
            uris: each as `Loader.load` takes it.

        Raises:
            MemoryLimitExceeded: they do not fit into the cache together; some are there.
            ExceptionGroup: of what those raised that could not be loaded; the others are there.
        """
        wanted = list(dict.fromkeys(os.fsdecode(uri) for uri in uris))
        outcomes = await asyncio.gather(
            *(self._find(uri, "background") for uri in wanted), return_exceptions=True
        )
        failures = [each for each in outcomes if isinstance(each, Exception)]
        del outcomes
        if failures:
            raise ExceptionGroup("some models could not be loaded", failures)
        if gone := [uri for uri in wanted if uri not in self._models]:
            raise MemoryLimitExceeded(
                f"{len(wanted)} models do not fit into {self._max_bytes:,} bytes together: "
                f"{len(gone)} of them had to go again. Preload fewer, or give the cache a larger "
                "max_bytes.",
                uri=Target(gone[0]).shown,
            )

    async def evict(self, uri: URI) -> bool:
        """Drop a model, unless it is leased or waited for; return whether it is not there now."""
        cached = self._models.get(os.fsdecode(uri))
        if cached is not None and cached.share.idle:
            self._drop(cached.target.uri)
            await self._empty()
        return os.fsdecode(uri) not in self._models

    @property
    def status(self) -> CacheStatus:
        """The cache at this moment."""
        models = tuple(
            CachedModel(
                uri=each.target.shown,
                state="loading" if each.generation is None else "available",
                nbytes=each.nbytes,
                leases=0 if each.generation is None else len(each.generation.leases),
            )
            for each in self._models.values()
        )
        return CacheStatus(sum(each.nbytes for each in models), self._max_bytes, models)

    # --- one request -----------------------------------------------------------------------

    def _touch(self, uri: str) -> Generation | None:
        """Return a model that is there, and note that it is used."""
        cached = self._models.get(uri)
        if cached is None or cached.generation is None:
            return None
        self._models[uri] = self._models.pop(uri)
        return cached.generation

    async def _find(self, uri: str, priority: Priority) -> Generation:
        """Return a model once it is there."""
        if self._closed:
            raise ServingClosed("this cache was closed; make a new one", uri=Target(uri).shown)
        cached = self._models.get(uri)
        if cached is None:
            cached = self._models[uri] = _Cached(Target(uri))
            cached.task = asyncio.create_task(self._bring(cached), name="asyncload-cache")
        if priority == "demand":
            cached.promote()
        cached.waiting += 1
        try:
            return await asyncio.shield(cached.ready)
        finally:
            self._leave(cached)
            self._touch(uri)

    def _leave(self, cached: _Cached) -> None:
        cached.waiting -= 1
        if cached.waiting:
            return
        if cached.task is not None and not cached.ready.done():
            cached.task.cancel()
            self._forget(cached)
        self._tell()

    def _forget(self, cached: _Cached) -> None:
        """Let the next who asks for it begin anew."""
        if self._models.get(cached.target.uri) is cached:
            del self._models[cached.target.uri]
        self._tell()

    async def _bring(self, cached: _Cached) -> None:
        """Load a model, with room made for it; the cache's task for it."""
        error: BaseException | None = None
        try:
            generation = await self._load(cached)
        except Exception as failure:  # noqa: BLE001 - it is handed to whoever waits
            error = failure
        except asyncio.CancelledError:
            error = ServingClosed(
                "the cache was closed before this model was there", uri=cached.target.shown
            )
            raise
        else:
            cached.generation = generation
            cached.ready.set_result(generation)
        finally:
            cached.task = cached.load = None
            if error is not None:
                cached.nbytes = 0
                self._forget(cached)
                cached.settle(error)

    async def _load(self, cached: _Cached) -> Generation:
        known: int | None = None
        while True:
            if known is not None:
                await self._make_room(cached, known)
            load = begin(self._loader, cached.target, self._options, cached.priority)
            cached.load, retained = load, load.retain()
            try:
                found = await _announced(load)
                if found is None or found == cached.nbytes or self._take(cached, found):
                    await self._empty()
                    model = await load.patiently()  # as urgent as who asked: see `promote`
                    break
            except BaseException:
                load.cancel()
                retained.release()
                raise
            load.cancel()
            retained.release()
            known = found
        return Generation(
            model,
            cached.target,
            cached.nbytes,
            retained,
            load_id=load.reports.load_id,
            on_unheld=self._tell,
        )

    # --- room ------------------------------------------------------------------------------

    def _take(self, cached: _Cached, nbytes: int) -> bool:
        """Take room for a model, from others if need be; whether that could be done."""
        if nbytes > self._max_bytes:
            raise MemoryLimitExceeded(
                f"has {nbytes:,} bytes of tensors; the cache has room for {self._max_bytes:,}. "
                "Give it a larger max_bytes, or load this one by itself.",
                uri=cached.target.shown,
            )
        others = [each.share for each in self._models.values() if each is not cached]
        victims = to_evict(others, self._max_bytes - nbytes)
        if victims is None:
            return False
        for uri in victims:
            self._drop(uri)
        cached.nbytes = nbytes
        return True

    async def _make_room(self, cached: _Cached, nbytes: int) -> None:
        """Wait until there is room for a model, and take it; first come, first served."""
        cached.nbytes = 0
        try:
            async with asyncio.timeout(self._lease_timeout), self._room:
                while not self._take(cached, nbytes):
                    self._news.clear()
                    await self._news.wait()
            await self._empty()
        except TimeoutError:
            raise MemoryLimitExceeded(
                f"needs {nbytes:,} bytes of the cache's {self._max_bytes:,}, and for "
                f"{self._lease_timeout:.6g} s too many of them were in use: {self._in_use()}. End "
                "leases sooner, or give the cache a larger max_bytes.",
                uri=cached.target.shown,
            ) from None

    def _reclaim(self, nbytes: int) -> None:
        """Give memory back that a load on demand needs: the Loader's budget asks for it."""
        shares = [each.share for each in self._models.values()]
        used = sum(share.nbytes for share in shares)
        idle = sum(share.nbytes for share in shares if share.idle)
        wanted = min(max(nbytes - self._going, 0), idle)
        for uri in to_evict(shares, used - wanted) or ():
            self._drop(uri)
        if self._dropped and (self._emptying is None or self._emptying.done()):
            self._emptying = asyncio.create_task(self._empty(), name="asyncload-cache-empty")

    def _in_use(self) -> str:
        used = [each for each in self._models.values() if each.nbytes and not each.share.idle]
        return "; ".join(
            f"{each.target.shown} ({each.nbytes:,} bytes) by "
            + (holders(each.generation.leases) if each.generation else "its load")
            for each in used
        )

    def _drop(self, uri: str) -> None:
        cached = self._models.pop(uri)
        generation = cached.generation
        if generation is not None and not generation.leases:
            self._dropped.append((generation.model, generation.retained))
            self._going += generation.retained.nbytes
            generation.model = None
        elif generation is not None:
            generation.retained.release()  # it is with whoever holds it, and counts no more
        self._tell()

    async def _empty(self) -> None:
        """Have the memory of what was dropped given back."""
        while self._dropped:
            model, retained = self._dropped.pop()
            await emptied(model, self._loader.pace)
            del model
            self._going -= retained.nbytes
            retained.release()

    def _tell(self) -> None:
        self._news.set()


def _check_limit(max_bytes: int, loader_memory: int) -> None:
    for limit, whose in (
        (physical_memory(), "this machine has"),
        (loader_memory, "its Loader may use"),
    ):
        if max_bytes > limit:
            raise MemoryLimitExceeded(
                f"a cache of {max_bytes:,} bytes does not fit into the {limit:,} that {whose}; "
                "give it a smaller max_bytes, or the Loader more memory"
            )


async def _announced(load: Load[Any]) -> int | None:
    """Return the bytes that a load has found in the index; ``None`` if it ended without."""
    async for event in load.events():
        if isinstance(event, Indexed):
            return event.nbytes
        if isinstance(event, Finished):
            break
    return None
