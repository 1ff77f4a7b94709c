"""The construction thread's side of a load: begun when the documents are in, bound after the reads.

What each kind of document becomes is the business of a `Build` in materialize/; a new one gets
a line in `_make`.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import Executor
from typing import Any, Protocol

import numpy.typing as npt

from asyncload.events import Event, StageEnded, StageStarted
from asyncload.interfaces import Reader, Source

from ._options import LoadOptions
from ._stock import on_disk

__all__ = ["Build", "Construction"]

Array = npt.NDArray[Any]


class Build(Protocol):
    """One model on its way; its methods are called on the construction thread, in this order.

    Attributes:
        suffix: what the path that `load_stock` gets has to end in.
    """

    suffix: str

    def construct(self, documents: Mapping[str, bytes]) -> None:
        """Make the model's objects, without values.

        Raises:
            CannotBuildFast: only `load_stock` can load this model.
            FormatError: the documents are damaged, or refused.
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


class Construction:
    """A model on its way, as the loop's thread sees it.

    Args:
        options: how to make it.
        builder: the construction thread.
        uri: for messages.
        emit: where events go.
    """

    def __init__(
        self,
        options: LoadOptions,
        builder: Executor,
        *,
        uri: str,
        emit: Callable[[Event], None],
    ) -> None:
        self._options = options
        self._builder = builder
        self._uri = uri
        self._emit = emit
        self._build: Build | None = None
        self._future: asyncio.Future[None] | None = None

    @property
    def begun(self) -> bool:
        """Whether documents of a model came, so that there is one to build."""
        return self._future is not None

    def begin(self, documents: Mapping[str, bytes]) -> None:
        """Start building, as soon as a Format has read what describes the model."""
        if self.begun or not _KINDS.intersection(documents):
            return
        self._emit(StageStarted(uri=self._uri, stage="build"))
        loop = asyncio.get_running_loop()
        self._future = loop.run_in_executor(self._builder, self._construct, documents)
        self._future.add_done_callback(self._report)

    def _report(self, future: asyncio.Future[None]) -> None:
        error = asyncio.CancelledError() if future.cancelled() else future.exception()
        name = type(error).__name__ if error else None
        self._emit(StageEnded(uri=self._uri, stage="build", error=name))

    def _construct(self, documents: Mapping[str, bytes]) -> None:
        # Imports TensorFlow, if the program has not: seconds, so it belongs on this thread.
        self._build = _make(documents, self._options, self._uri)
        self._build.construct(documents)

    async def wait(self) -> None:
        """Wait until the model's objects are made; raises what building them raised."""
        if self._future is None:
            raise RuntimeError("no documents came, so there is no model to wait for")
        await self._future

    async def bind(self, arrays: Mapping[str, Array], assets: Mapping[str, bytes]) -> Any:
        """Give the model its values, and return it; see `Build.bind`."""
        await self.wait()
        return await self._on_thread(self._made.bind, arrays, assets)

    async def load_stock(self, source: Source, readers: Sequence[Reader]) -> Any:
        """Let TensorFlow or Keras load the files itself; see `Build.load_stock`."""
        async with on_disk(source, readers, self._made.suffix) as path:
            return await self._on_thread(self._made.load_stock, path)

    @property
    def _made(self) -> Build:
        if self._build is None:
            raise RuntimeError("the model was not begun")
        return self._build

    def abandon(self) -> None:
        """Drop what is still being built; its thread finishes by itself."""
        if self._future is not None:
            self._future.cancel()

    async def _on_thread(self, function: Callable[..., Any], *args: Any) -> Any:
        return await asyncio.get_running_loop().run_in_executor(self._builder, function, *args)


_KERAS, _LEGACY = "config.json", "model_config"
_KINDS = frozenset({_KERAS, _LEGACY})  # documents that say what a model is made of


def _make(documents: Mapping[str, bytes], options: LoadOptions, uri: str) -> Build:
    """Return the `Build` for documents, one of which is among `_KINDS`."""
    from asyncload.materialize.keras import ModelBuild
    from asyncload.materialize.keras_h5 import LegacyBuild

    kind = LegacyBuild if _LEGACY in documents else ModelBuild
    return kind(
        uri=uri,
        custom_objects=options.custom_objects,
        compile=options.compile,
        safe_mode=options.safe_mode,
        scopes=options.scopes,
    )
