"""How a load goes: open, detect, index, then read the bytes beside building the model."""

from __future__ import annotations

import functools
import os
from collections.abc import (
    AsyncGenerator,
    AsyncIterator,
    Callable,
    Collection,
    Iterator,
    Mapping,
    Sequence,
)
from contextlib import AsyncExitStack, aclosing, asynccontextmanager, contextmanager
from typing import Any, TypeVar

import numpy.typing as npt

from asyncload.collecting import collection_held
from asyncload.errors import FormatError, NotApplicable, SourceError, UnknownFormat, about
from asyncload.events import Event, FellBack, Indexed, StageEnded, StageStarted, TensorReady
from asyncload.formats import PREFIXES, WARMUP_REQUESTS, without_legacy_optimizer
from asyncload.interfaces import (
    HeldReader,
    Indexing,
    ListEntry,
    Manners,
    OpenFiles,
    Reader,
    Source,
    Urgency,
    on_demand,
)
from asyncload.manifest import Chunked, Manifest, TensorEntry
from asyncload.materialize import CannotBuildFast
from asyncload.memory import Budget
from asyncload.pipeline import MANY, EarlyReads, HeldPart, HeldRange, Pipeline, unpack
from asyncload.sources import StorageOptions

from ._construct import Construction
from ._fetch import Fetch, Fetched, FetchOptions
from ._fetch_choice import choose
from ._find import explained, find_format
from ._groups import first_error
from ._into import Into
from ._load import Load
from ._options import IntoOptions, LoadOptions
from ._parts import Decode, decode_whole
from ._recall import Recall
from ._resources import Resources
from ._retained import retain_for
from ._sightings import Sightings, WatchedSource
from ._stock import checkpoint_on_disk, temporary_folder
from ._weights import Weights

__all__ = ["Flow"]

Array = npt.NDArray[Any]
Result = TypeVar("Result")

# Tensors, and chunks of them: a full collection of their objects takes 20 ms and more.
_TOO_MANY_TO_VISIT = 10_000


def _report_nothing(event: Event) -> None:
    del event


def _inherited(own: Callable[[], Urgency], holds: Sequence[int], budget: Budget) -> Urgency:
    """Return how urgent a load is: as those are that wait for the memory that it holds."""
    return Urgency.DEMAND if any(holds) and budget.is_needed else own()


def _has_more_parts(manifest: Manifest, limit: int) -> bool:
    if len(manifest.tensors) > limit:
        return True
    encodings = (entry.encoding for entry in manifest.tensors.values())
    chunked = [each for each in encodings if isinstance(each, Chunked)]
    return sum(len(each.chunks) for each in chunked) > limit


def _want_no_document(documents: Mapping[str, bytes]) -> None:
    del documents


def _take_any_format(form: str, *, uri: str) -> None:
    del form, uri


def _say_nothing(entry: TensorEntry) -> None:
    del entry


def _read_nothing(tensors: Mapping[str, TensorEntry]) -> None:
    del tensors


class Flow:
    """One load, from its URI to its result.

    Args:
        uri: where the model or the weights are.
        resources: the Loader's.
        storage: ``storage_options``.
        load: whose work it is, which gets its events.
        emit: gets them if there is no such load.
        sightings: where it notes which files it opened.
    """

    def __init__(
        self,
        uri: str | os.PathLike[str],
        resources: Resources,
        storage: Mapping[str, Any],
        load: Load[Any] | None = None,
        *,
        emit: Callable[[Event], None] = _report_nothing,
        sightings: Sightings | None = None,
    ) -> None:
        self._resources = resources
        self._load = load
        self._emit = emit if load is None else load.emit
        self._storage = storage
        self._given = uri
        self._sightings = sightings
        self._source = self._source_of(uri)
        self.uri = self._source.uri
        self._files = OpenFiles()
        self._held = AsyncExitStack()
        self._reserved = False
        # Nothing of this Flow's own in it: they would keep each other, and the result, alive.
        self._urgency = on_demand if load is None else functools.partial(getattr, load, "urgency")
        self._holds: list[int] = []  # bytes of the budget
        urgency = functools.partial(_inherited, self._urgency, self._holds, resources.budget)
        step = functools.partial(resources.pace.step, urgency)
        self._manners = Manners(urgency, step, lambda: resources.pace.gives_way(urgency()))
        self._form: str | None = None  # name of the format
        self._announced = False
        self._kept = 0  # bytes of what stays when the load is over
        self._recall = Recall(resources.index_cache, resources.spare_time)
        self._early: EarlyReads | None = None

    def _source_of(self, uri: str | os.PathLike[str]) -> Source:
        source = self._resources.source(uri, self._storage)
        return source if self._sightings is None else WatchedSource(source, self._sightings)

    # --- what callers ask for ----------------------------------------------------------

    async def inspect(self) -> Manifest:
        """Index, and nothing else."""
        async with self._opened():
            manifest = await self._index(_want_no_document, _read_nothing)
            nbytes = await self._aside(manifest, lambda: manifest.nbytes)
            self._announce(manifest, nbytes, len(manifest.tensors))
            return manifest

    async def entries(self, *, recursive: bool) -> list[ListEntry]:
        """List what is at the URI."""
        async with self._source:
            return await self._source.entries(recursive=recursive)

    async def fetch(self, options: FetchOptions) -> Fetched:
        """Copy what a load would read into a folder."""
        async with self._opened():
            with self._stage("index"):
                choice = await choose(self._indexing(_want_no_document, _read_nothing))
                if not choice.is_model and await self._turn_to_prefix():
                    choice = await choose(self._indexing(_want_no_document, _read_nothing))
            piece = StorageOptions.parse(self._storage).part_size
            fetch = Fetch(self._source, choice, options, emit=self._emit, piece=piece)
            self._emit(Indexed(uri=self.uri, format=choice.format, tensors=0, nbytes=choice.nbytes))
            await self._reserve(fetch.memory)
            async with AsyncExitStack() as held:
                with self._stage("wait"):
                    await held.enter_async_context(fetch.opened())
                with self._stage("fetch"):
                    return await fetch.run()

    async def names(self) -> list[str] | None:
        """Return the names in the folder; ``None`` where the URI names a file."""
        async with self._opened():
            return await self._source.list()

    async def weights(self, *, verify: bool) -> Weights:
        """Read every tensor, and compare the checksums that they have, if ``verify``."""
        async with self._opened():
            manifest = await self._index(_want_no_document, self._read_early)
            return await self._read_weights(manifest, verify)

    async def stream(self) -> AsyncGenerator[tuple[str, Array], None]:
        """Yield tensors as they complete."""
        async with self._opened():
            manifest = await self._index(_want_no_document, _read_nothing)
            pipeline = await self._pipeline(manifest, verify=True)
            async with aclosing(pipeline.stream()) as tensors:
                async for item in tensors:
                    yield item

    async def part(self, decode: Decode) -> Mapping[str, Array]:
        """Have a worker run the caller's own function on the whole file."""
        async with self._opened():
            reader = await self._source.open()
            self._emit(Indexed(uri=self.uri, format="part", tensors=0, nbytes=reader.size))
            await self._reserve(reader.size)
            with self._stage("read"):
                return await decode_whole(
                    decode, reader, self._resources.workers, self._resources.slabs
                )

    async def load(self, options: LoadOptions) -> Any:
        """Make the model that the URI holds, or return its weights where it holds no model."""
        async with self._opened():
            self._held.callback(options.scopes.hand_back)
            construction = Construction(
                options,
                self._resources.builder,
                source=self._source,
                files=self._files,
                emit=self._emit,
            )
            try:
                manifest = await self._index(
                    construction.begin,
                    self._read_early,
                    check_format=options.check_format,
                    legacy_optimizer=options.compile,
                )
                if not construction.begun:
                    options.check_is_model(manifest.format, uri=self.uri)
                    if options.reuse is not None:
                        reason = "it holds no model, so there is nothing to reuse"
                        self._emit(FellBack(uri=self.uri, reason=reason))
                    return await self._read_weights(manifest, options.verify)
                model = await self._model(manifest, construction, options.verify)
                if options.warms_up:
                    await self._warm_up(manifest, model, construction)
                return model
            finally:
                construction.abandon()

    async def into(self, target: Any, options: IntoOptions) -> None:
        """Give an object that lives the values that the URI holds."""
        into = Into(target, options, self._resources.builder, uri=self.uri)
        async with self._opened():
            self._held.callback(options.scopes.hand_back)
            # As in load_weights, by which a legacy optimizer's state would go anywhere.
            manifest = await self._index(
                _want_no_document, self._read_early, legacy_optimizer=False
            )
            pipeline = await self._pipeline(manifest, verify=options.verify)
            async with first_error() as group:
                group.start_soon(into.choose, manifest)  # the thread may be building a model
                with self._stage("read"):
                    arrays = await pipeline.run()
            with self._stage("bind"):
                try:
                    await into.assign(manifest, arrays)
                except CannotBuildFast as reason:
                    self._emit(FellBack(uri=self.uri, reason=str(reason)))
                    async with checkpoint_on_disk(self._source, self._files.readers) as prefix:
                        await into.load_stock(prefix)

    @asynccontextmanager
    async def _opened(self) -> AsyncIterator[None]:
        """Hold the source, and what the load takes on its way, until the block ends."""
        with about(self.uri), self._resources.pace.kept(self._load), self._recall:
            async with self._source, self._held:
                try:
                    yield
                except FormatError as error:
                    await self._explain(error)
                    raise
                if self._load is not None:
                    # Before what it took is given back, so that nobody takes it between.
                    retain_for(self._load.retained, self._resources.budget, self._kept)

    async def _explain(self, error: FormatError) -> None:
        """Raise another error, if a file is something else than its name says."""
        if self._form is not None and not isinstance(error, NotApplicable):
            better = await explained(error, self._source, self._files.readers, self._form)
            if better is not error:
                raise better from None

    async def _reserve(self, nbytes: int) -> None:
        """Take the load's memory from the budget, once, until the load has ended."""
        if not self._reserved:
            self._reserved = True
            taking = self._resources.budget.take(nbytes, self._urgency, uri=self.uri)
            await self._held.enter_async_context(taking)
            self._holds.append(nbytes)

    # --- the stages --------------------------------------------------------------------

    async def _index(
        self,
        publish: Callable[[Mapping[str, bytes]], None],
        found: Callable[[Mapping[str, TensorEntry]], None],
        *,
        check_format: Callable[..., None] = _take_any_format,
        legacy_optimizer: bool = True,
    ) -> Manifest:
        with self._stage("index"):
            try:
                chosen, reader = await find_format(self._source)
            except UnknownFormat:
                if not await self._turn_to_prefix():
                    raise
                chosen, reader = await find_format(self._source)
            self._files.add(reader)
            check_format(chosen.name, uri=self.uri)
            self._form = chosen.name
            manifest = await self._recall.index(chosen, self._indexing(publish, found))
            self._resources.bounds.check_tensors(len(manifest.tensors), self.uri)
        if _has_more_parts(manifest, _TOO_MANY_TO_VISIT):
            self._held.enter_context(collection_held())
        return manifest if legacy_optimizer else without_legacy_optimizer(manifest)

    async def _turn_to_prefix(self) -> bool:
        """Take the URI as what the names of several files begin with; return whether it is.

        For a folder, or a file, of no known format that has the name of a checkpoint beside it.
        """
        for ending, _ in PREFIXES:
            source = self._source_of(f"{os.fsdecode(self._given)}{ending}")
            await self._held.enter_async_context(source)
            try:
                await source.open()
            except SourceError:  # not there, as far as can be told
                continue
            self._source = source
            return True
        return False

    async def _aside(self, manifest: Manifest, function: Callable[[], Result]) -> Result:
        """Call a function that asks every tensor, in a thread if there are many."""
        if len(manifest.tensors) <= MANY:
            return function()
        return await self._resources.workers.run_in_thread(function)

    def _indexing(
        self,
        publish: Callable[[Mapping[str, bytes]], None],
        found: Callable[[Mapping[str, TensorEntry]], None],
    ) -> Indexing:
        return Indexing(
            source=self._source,
            files=self._files,
            workers=self._resources.workers,
            unpack=self._unpack,
            hold=self._hold,
            publish=publish,
            found=found,
            bounds=self._resources.bounds,
        )

    def _announce(self, manifest: Manifest, nbytes: int, tensors: int) -> None:
        """Report the index, once it is known how much of what it lists will be read."""
        self._announced = True
        self._emit(
            Indexed(
                uri=self.uri,
                format=manifest.format,
                tensors=tensors,
                nbytes=nbytes,
                cached=self._recall.hit,
            )
        )

    async def _unpack(
        self, reader: Reader, offset: int, stored: int, decoded: int, crc32: int
    ) -> Reader:
        # Its tensors are as large again at most, and a load must not wait twice: two that each
        # hold half of what they need would wait for each other.
        await self._reserve(stored + 2 * decoded)
        unpacked = await unpack(
            reader, offset, stored, decoded, crc32, workers=self._resources.workers
        )
        self._held.push_async_callback(unpacked.aclose)
        return unpacked

    async def _hold(self, file: int, offset: int, length: int) -> HeldReader:
        reader = self._files.readers[file]
        if isinstance(reader, HeldRange) and (held := reader.held(offset, length)) is not None:
            return held
        await self._reserve(2 * length)  # as in `_unpack`
        part = await HeldPart.begin(
            reader,
            offset,
            length,
            threads=self._resources.workers.threads,
        )
        self._held.push_async_callback(part.aclose)
        self._files.readers[file] = HeldRange(reader, part, offset)
        return part

    def _read_early(self, tensors: Mapping[str, TensorEntry]) -> None:
        """Read tensors of which the index is known before that of others."""
        if self._early is None:
            resources = self._resources
            self._early = EarlyReads(
                self._files,
                workers=resources.workers,
                slabs=resources.slabs,
                arenas=resources.arenas,
                manners=self._manners,
            )
            self._held.push_async_callback(self._early.aclose)
        self._early.begin(tensors)

    async def _read_weights(self, manifest: Manifest, verify: bool) -> Weights:
        pipeline = await self._pipeline(manifest, verify=verify)
        with self._stage("read"):
            return Weights(await pipeline.run(), manifest)

    async def _model(self, manifest: Manifest, construction: Construction, verify: bool) -> Any:
        try:
            tensors, assets = await construction.wanted(manifest, self._resources.workers)
            pipeline = await self._pipeline(manifest, tensors, verify=verify)
            return await self._build_beside_reads(pipeline, assets, construction)
        except CannotBuildFast as reason:
            self._emit(FellBack(uri=self.uri, reason=str(reason)))
        if self._early is not None:
            await self._early.aclose()
            self._early = None
        self._kept = manifest.nbytes
        if not self._announced:
            self._announce(manifest, manifest.nbytes, len(manifest.tensors))
        await self._reserve(manifest.nbytes)
        with self._stage("build"):
            if construction.stock_reads_files:
                return await construction.load_stock()
            return await self._load_written(manifest, construction, verify)

    async def _load_written(
        self, manifest: Manifest, construction: Construction, verify: bool
    ) -> Any:
        """Have Keras load files that are written anew, of nothing but what was checked."""
        pipeline = self._unannounced(manifest, None, verify=verify, on_tensor=_say_nothing)
        async with temporary_folder() as folder:
            arrays, assets = await pipeline.run(), await pipeline.assets(None)
            workers = self._resources.workers
            path = await construction.write(folder, arrays, assets, workers)
            del arrays, assets
            return await construction.load_written(path)

    async def _build_beside_reads(
        self, pipeline: Pipeline, assets: Collection[str] | None, construction: Construction
    ) -> Any:
        # A round trip to a store, beside binding where nobody has the model before both are over.
        checked = construction.reuses
        async with first_error() as group:
            group.start_soon(construction.wait)
            with self._stage("read"):
                arrays = await pipeline.run(check=checked)
                files = await pipeline.assets(assets)
        with self._stage("bind"):
            async with first_error() as group:
                if not checked:
                    group.start_soon(pipeline.check)
                return await construction.bind(arrays, files)

    async def _warm_up(self, manifest: Manifest, model: Any, construction: Construction) -> None:
        with self._stage("warm-up"):
            pipeline = self._unannounced(manifest, (), verify=False)
            saved = await pipeline.assets([WARMUP_REQUESTS])
            await construction.warm_up(model, next(iter(saved.values()), None))

    async def _pipeline(
        self, manifest: Manifest, names: Collection[str] | None = None, *, verify: bool
    ) -> Pipeline:
        """Make what reads these tensors, by default all, once there is memory for them."""
        pipeline = self._unannounced(manifest, names, verify=verify)
        await self._aside(manifest, pipeline.measure)
        self._kept = pipeline.nbytes
        self._announce(manifest, pipeline.nbytes, pipeline.tensors)
        await self._reserve(pipeline.nbytes + pipeline.staging)
        return pipeline

    def _unannounced(
        self,
        manifest: Manifest,
        names: Collection[str] | None,
        *,
        verify: bool,
        on_tensor: Callable[[TensorEntry], None] | None = None,
    ) -> Pipeline:
        resources = self._resources
        return Pipeline(
            manifest,
            self._files,
            workers=resources.workers,
            slabs=resources.slabs,
            arenas=resources.arenas,
            names=names,
            on_tensor=on_tensor or self._tensor_ready,
            verify=verify,
            early=self._early,
            manners=self._manners,
        )

    def _tensor_ready(self, entry: TensorEntry) -> None:
        self._emit(TensorReady(uri=self.uri, name=entry.name, nbytes=entry.nbytes))

    @contextmanager
    def _stage(self, stage: str) -> Iterator[None]:
        self._emit(StageStarted(uri=self.uri, stage=stage))
        try:
            yield
        except BaseException as error:
            self._emit(StageEnded(uri=self.uri, stage=stage, error=type(error).__name__))
            raise
        self._emit(StageEnded(uri=self.uri, stage=stage))
