"""The construction thread's side of a load: begun when the documents are in, bound after the reads.

What each kind of document becomes is the business of a `Build` in materialize/; a new one gets
a line in `_make`.
"""

from __future__ import annotations

import asyncio
import functools
import os
from collections.abc import Callable, Collection, Mapping
from concurrent.futures import Executor, Future
from dataclasses import dataclass
from typing import Any, Protocol, runtime_checkable

import numpy.typing as npt

from asyncload.errors import Unsafe
from asyncload.events import Event, FellBack, StageEnded, StageStarted
from asyncload.formats import PROGRAMS, SAVED_MODEL
from asyncload.interfaces import OpenFiles, Reader, Source, WorkerPool
from asyncload.manifest import Manifest
from asyncload.materialize import CannotWarmUp
from asyncload.materialize.quiet import settle
from asyncload.resting import carried
from asyncload.sources import LocalReader
from asyncload.workers import in_own_thread

from ._extra import wanting_tensorflow
from ._options import LoadOptions
from ._stock import on_disk, own_path
from ._to_end import run_to_end

__all__ = ["Build", "Construction"]

Array = npt.NDArray[Any]
Names = Collection[str] | None
Wanted = tuple[Names, Names]

# Documents that say what a model is made of, and whether that decides which tensors are read.
# Where it does not, reads need not wait until TensorFlow is imported.
_KERAS, _LEGACY = "config.json", "model_config"
_SELECTIVE = {_KERAS: False, _LEGACY: False, **dict.fromkeys(PROGRAMS, True)}


Writer = Callable[[str, Mapping[str, Array], Mapping[str, bytes]], str]


class Build(Protocol):
    """One model on its way; its methods are called in this order.

    All but `wanted` and `writer` are called on the construction thread.
    """

    @property
    def writer(self) -> Writer | None:
        """Write what `load_stock` reads into an empty folder, of what `bind` takes; its path.

        ``None`` if it reads the files themselves.
        """
        ...

    def read(self, documents: Mapping[str, bytes]) -> None:
        """Take in what the documents say of the model.

        Raises:
            CannotBuildFast: only `load_stock` can load this model.
            FormatError: the documents are damaged, or refused.
        """
        ...

    def wanted(self, manifest: Manifest) -> Wanted:
        """Return the names of the tensors and of the assets that `bind` needs; ``None`` for all.

        Called after `read`, in any thread, even while `construct` runs.

        Raises: as `read` does.
        """
        ...

    def construct(self) -> None:
        """Make the model's objects, without values.

        Raises: as `read` does.
        """
        ...

    def bind(self, arrays: Mapping[str, Array], assets: Mapping[str, bytes]) -> Any:
        """Give the model its values, and return it.

        Raises:
            CannotBuildFast: only `load_stock` can load this model.
            MismatchError: the values do not fit.
        """
        ...

    def load_stock(self, path: str) -> Any:
        """Load the model as TensorFlow or Keras itself does, from a file or folder on disk."""
        ...


@runtime_checkable
class Claim(Protocol):
    """A `Build` that has a model which others may be offered later."""

    def release(self) -> None:
        """Give it up; called when the load has ended."""
        ...


@runtime_checkable
class Stoppable(Protocol):
    """A `Build` that can be told, from any thread, that nobody wants its model any more."""

    def stop(self) -> None:
        """Make no more of it; called when the load has ended, too."""
        ...


class Construction:
    """A model on its way, as the loop's thread sees it.

    Args:
        options: how to make it.
        builder: the construction thread.
        source: where its files are.
        files: those that are open.
        emit: where events go.
    """

    def __init__(
        self,
        options: LoadOptions,
        builder: Executor,
        *,
        source: Source,
        files: OpenFiles,
        emit: Callable[[Event], None],
    ) -> None:
        self._options = options
        self._builder = builder
        self._source = source
        self._files = files
        self._uri = source.uri
        self._emit = emit
        self._build: Build | None = None
        self._selective = False
        self._reading: Future[None] | None = None
        self._constructing: asyncio.Future[None] | None = None

    @property
    def begun(self) -> bool:
        """Whether documents of a model came, so that there is one to build."""
        return self._reading is not None

    @property
    def reuses(self) -> bool:
        """Whether binding may change a model that is there, which has to stay if the load fails."""
        return self._options.reuse is not None

    def begin(self, documents: Mapping[str, bytes]) -> None:
        """Start building, as soon as a Format has read what describes the model.

        Raises:
            Unsafe: it is a program, and nobody said that it may run.
        """
        kind = next((each for each in _SELECTIVE if each in documents), None)
        if self.begun or kind is None:
            return
        if kind in PROGRAMS:
            _check_trusted(self._source, self._files.readers[0], self._options.trusted)
        self._emit(StageStarted(uri=self._uri, stage="build"))
        loop = asyncio.get_running_loop()
        notice = _notice(self._uri, self._emit, loop)
        make = _Maker(self._options, self._source, self._files.readers[0], notice)
        self._selective = _SELECTIVE[kind]
        self._reading = self._builder.submit(carried(self._read), make, kind, documents)
        self._constructing = loop.run_in_executor(self._builder, carried(self._construct))
        self._constructing.add_done_callback(self._report)

    def _report(self, future: asyncio.Future[None]) -> None:
        error = asyncio.CancelledError() if future.cancelled() else future.exception()
        name = type(error).__name__ if error else None
        self._emit(StageEnded(uri=self._uri, stage="build", error=name))

    def _read(self, make: _Maker, kind: str, documents: Mapping[str, bytes]) -> None:
        # Imports TensorFlow, if the program has not: seconds, so it belongs on this thread.
        with wanting_tensorflow(self._uri):
            self._build = make.build(kind)
        settle()
        if kind in PROGRAMS:
            from asyncload.materialize.runtime import check_calls

            check_calls(self._uri)
        self._build.read(make.parsed(kind, documents))

    def _construct(self) -> None:
        if self._reading is not None:
            self._reading.result()  # over, as this is the same thread; raises what it raised
        self._made.construct()

    async def wanted(self, manifest: Manifest, workers: WorkerPool) -> Wanted:
        """Return the names of the tensors and of the assets that are needed; ``None`` for all.

        Raises: as `Build.read` does.
        """
        if not self._selective or self._reading is None:
            return None, None
        await asyncio.wrap_future(self._reading)
        return await workers.run_in_thread(self._made.wanted, manifest)

    async def wait(self) -> None:
        """Wait until the model's objects are made; raises what building them raised."""
        if self._constructing is None:
            raise RuntimeError("no documents came, so there is no model to wait for")
        await self._constructing

    async def bind(self, arrays: Mapping[str, Array], assets: Mapping[str, bytes]) -> Any:
        """Give the model its values, and return it; see `Build.bind`."""
        await self.wait()
        if self._options.reuse is not None:  # a model that others have
            return await run_to_end(self._builder, self._made.bind, arrays, assets)
        return await self._on_thread(self._made.bind, arrays, assets)

    async def warm_up(self, model: Any, requests: bytes | None) -> None:
        """Call the model once, in a thread of its own, as `Loader.load` says of ``warmup``.

        Args:
            model: what `bind` or `load_stock` returned.
            requests: what was saved with it to warm it up with, if anything was.
        """
        from asyncload.materialize.warmup import warm_up

        call = functools.partial(warm_up, model, self._options.warmup, requests, uri=self._uri)
        try:
            await in_own_thread(call)
        except CannotWarmUp as reason:
            self._emit(FellBack(uri=self._uri, reason=f"it was not warmed up: {reason}"))

    @property
    def stock_reads_files(self) -> bool:
        """Whether `load_stock` reads the files themselves, and no values."""
        return self._made.writer is None

    async def load_stock(self) -> Any:
        """Let TensorFlow load the files itself; see `Build.load_stock`.

        Raises:
            SourceChanged: one of them is not, or no longer, the version that was indexed.
        """
        async with on_disk(self._source, self._files.readers) as path:
            return await self._on_thread(self._made.load_stock, path)

    async def write(
        self,
        folder: str,
        arrays: Mapping[str, Array],
        assets: Mapping[str, bytes],
        workers: WorkerPool,
    ) -> str:
        """Write what `load_written` reads into an empty folder, and return its path."""
        write = self._made.writer
        if write is None:
            raise TypeError(f"{type(self._build).__name__} writes nothing")
        return await workers.run_in_thread(write, folder, arrays, assets)

    async def load_written(self, path: str) -> Any:
        """Let Keras load what `write` wrote; see `Build.load_stock`."""
        return await self._on_thread(self._made.load_stock, path)

    @property
    def _made(self) -> Build:
        if self._build is None:
            raise RuntimeError("the model was not begun")
        return self._build

    def abandon(self) -> None:
        """Drop what is still being built; its thread finishes by itself, as soon as it can."""
        if self._constructing is not None:
            self._constructing.cancel()
        build: object = self._build
        if isinstance(build, Claim):
            build.release()
        if isinstance(build, Stoppable):
            build.stop()

    async def _on_thread(self, function: Callable[..., Any], *args: Any) -> Any:
        return await asyncio.get_running_loop().run_in_executor(
            self._builder, carried(function), *args
        )


def _notice(
    uri: str, emit: Callable[[Event], None], loop: asyncio.AbstractEventLoop
) -> Callable[[str], None]:
    """Return what reports, from any thread, why a model is made the slower way."""

    # No method of `Construction`: a build that referred to that, and it to the build, would keep
    # a dropped model's memory until the garbage collector comes.
    def notice(reason: str) -> None:
        loop.call_soon_threadsafe(emit, FellBack(uri=uri, reason=reason))

    return notice


def _check_trusted(source: Source, program: Reader, trusted: bool | None) -> None:
    origin = program.origin if isinstance(program, LocalReader) else None
    if trusted is False or (trusted is None and (origin is not None or not source.local)):
        where = "is not on this machine's disk" if origin is None else f"is a copy of {origin}"
        if trusted is False and origin is None and source.local:
            where = "trusted=False was passed"
        raise Unsafe(
            f"is a SavedModel, which is a program, and {where}. If you trust "
            "where it comes from, pass trusted=True; its weights alone can be had with "
            "load_weights().",
            uri=source.uri,
        )


@dataclass(frozen=True, slots=True)
class _Maker:
    """Makes the `Build` of a kind of document."""

    options: LoadOptions
    source: Source
    first: Reader
    notice: Callable[[str], None]

    def build(self, kind: str) -> Build:
        build = self._saved_model() if kind in PROGRAMS else self._keras(kind)
        if self.options.reuse is None:
            return build
        if self.options.whole and kind in PROGRAMS:
            self.notice("a whole object is made anew; the model offered for reuse is left as it is")
            return build
        from asyncload.materialize.reuse import ReuseBuild

        return ReuseBuild(
            build,
            self.options.reuse,
            scopes=self.options.scopes,
            notice=self.notice,
            uri=self.source.uri,
        )

    def parsed(self, kind: str, documents: Mapping[str, bytes]) -> Mapping[str, bytes]:
        """Return the documents with a program as what it is, where it was text."""
        if kind not in PROGRAMS or kind == SAVED_MODEL:
            return documents
        from asyncload.materialize.program_text import parse_program

        return {**documents, SAVED_MODEL: parse_program(documents[kind], uri=self.source.uri)}

    def _keras(self, kind: str) -> Build:
        from asyncload.materialize.keras import ModelBuild
        from asyncload.materialize.keras_h5 import LegacyBuild

        return (LegacyBuild if kind == _LEGACY else ModelBuild)(
            uri=self.source.uri,
            custom_objects=self.options.custom_objects,
            compile=self.options.compile,
            safe_mode=self.options.safe_mode,
            limits=self.options.limits,
            scopes=self.options.scopes,
        )

    def _saved_model(self) -> Build:
        if self.options.whole:
            from asyncload.materialize.whole import WholeBuild

            return WholeBuild(
                uri=self.source.uri,
                folder=self._folder(),
                scopes=self.options.scopes,
                tags=self.options.tag_set,
            )
        from asyncload.materialize.signatures import SignaturesBuild

        return SignaturesBuild(
            uri=self.source.uri,
            signatures=self.options.chosen_signatures,
            folder=self._folder(),
            scopes=self.options.scopes,
            notice=self.notice,
            tags=self.options.tag_set,
        )

    def _folder(self) -> str | None:
        path = own_path(self.source, self.first)
        # The URI may name the file in the folder, too.
        return os.path.dirname(path) if path is not None and not self.first.name else path
