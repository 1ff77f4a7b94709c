"""The construction thread's side of a load: begun when the config is in, bound after the reads."""

from __future__ import annotations

import asyncio
import sys
import tempfile
from collections.abc import Callable, Mapping
from concurrent.futures import Executor
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import anyio
import numpy.typing as npt

from asyncload.events import Event, StageEnded, StageStarted
from asyncload.interfaces import Reader

if TYPE_CHECKING:
    from asyncload.materialize.keras import ModelBuild

__all__ = ["Construction", "KerasOptions", "capture_keras_scopes"]

Scopes = Callable[[], AbstractContextManager[None]]

_CONFIG = "config.json"
_COPY = 8 << 20  # bytes read at a time, where Keras needs a file of its own


@dataclass(frozen=True, slots=True)
class KerasOptions:
    """How a Keras model is to be made; see `Loader.load`."""

    custom_objects: Mapping[str, Any] | None
    compile: bool
    safe_mode: bool
    scopes: Scopes


def capture_keras_scopes() -> Scopes:
    """Capture the Keras scopes that the caller is in, to enter them on the construction thread."""
    if "keras" not in sys.modules:
        return nullcontext
    from asyncload.materialize.keras import capture_scopes

    return capture_scopes()


class Construction:
    """A Keras model on its way, as the loop's thread sees it.

    Args:
        options: how to make it.
        builder: the construction thread.
        uri: for messages.
        emit: where events go.
    """

    def __init__(
        self,
        options: KerasOptions,
        builder: Executor,
        *,
        uri: str,
        emit: Callable[[Event], None],
    ) -> None:
        self._options = options
        self._builder = builder
        self._uri = uri
        self._emit = emit
        self._future: asyncio.Future[ModelBuild] | None = None

    @property
    def begun(self) -> bool:
        """Whether a config came, so that there is a model to build."""
        return self._future is not None

    def begin(self, documents: Mapping[str, bytes]) -> None:
        """Start building, as soon as a Format has read the config."""
        if _CONFIG not in documents or self.begun:
            return
        self._emit(StageStarted(uri=self._uri, stage="build"))
        loop = asyncio.get_running_loop()
        self._future = loop.run_in_executor(self._builder, self._construct, documents[_CONFIG])
        self._future.add_done_callback(self._report)

    def _report(self, future: asyncio.Future[ModelBuild]) -> None:
        error = asyncio.CancelledError() if future.cancelled() else future.exception()
        name = type(error).__name__ if error else None
        self._emit(StageEnded(uri=self._uri, stage="build", error=name))

    def _construct(self, config_json: bytes) -> ModelBuild:
        # Imports TensorFlow, if the program has not: seconds, so it belongs on this thread.
        from asyncload.materialize.keras import ModelBuild

        options = self._options
        build = ModelBuild(
            uri=self._uri,
            custom_objects=options.custom_objects,
            compile=options.compile,
            safe_mode=options.safe_mode,
            scopes=options.scopes,
        )
        build.check(config_json)
        build.construct()
        return build

    async def wait(self) -> None:
        """Wait until the model's objects are made; raises what building them raised."""
        await self._built()

    async def _built(self) -> ModelBuild:
        if self._future is None:
            raise RuntimeError("no config came, so there is no model to wait for")
        return await self._future

    async def bind(
        self, arrays: Mapping[str, npt.NDArray[Any]], assets: Mapping[str, bytes]
    ) -> Any:
        """Give the model its weights, and return it; see `ModelBuild.bind`."""
        build = await self._built()
        return await self._on_thread(build.bind, arrays, assets)

    async def load_stock(self, reader: Reader) -> Any:
        """Let Keras load the file itself; see `materialize.keras.load_stock`."""
        if reader.path is not None and reader.path.endswith(".keras"):
            return await self._on_thread(self._load_stock, reader.path)
        with tempfile.TemporaryDirectory(prefix="asyncload-") as folder:
            path = anyio.Path(folder) / "model.keras"
            async with await path.open("wb") as file:
                for offset in range(0, reader.size, _COPY):
                    length = min(_COPY, reader.size - offset)
                    await file.write(await reader.read(offset, length))
            return await self._on_thread(self._load_stock, str(path))

    def _load_stock(self, path: str) -> Any:
        from asyncload.materialize.keras import load_stock

        options = self._options
        return load_stock(
            path,
            uri=self._uri,
            custom_objects=options.custom_objects,
            compile=options.compile,
            safe_mode=options.safe_mode,
            scopes=options.scopes,
        )

    def abandon(self) -> None:
        """Drop what is still being built; its thread finishes by itself."""
        if self._future is not None:
            self._future.cancel()

    async def _on_thread(self, function: Callable[..., Any], *args: Any) -> Any:
        return await asyncio.get_running_loop().run_in_executor(self._builder, function, *args)
