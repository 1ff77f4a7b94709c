"""``asyncload demo``: serve model A while model B loads, and measure what the server noticed.

The same is done in three ways, in turns, in one process: with asyncload, on demand and in the
background, and with ``keras.models.load_model`` in a thread. Nothing is printed that was not
measured in that run.
"""

from __future__ import annotations

import asyncio
import json
import os
import sys
import tempfile
import time
from collections.abc import Awaitable, Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

import anyio
import numpy as np
import numpy.typing as npt
from rich.console import Console
from rich.filesize import decimal
from rich.table import Table

# Not `import asyncload` alone, which imports what it needs at the first use: on the loop.
from asyncload import prefetch
from asyncload._probe import LoopProbe, Stall
from asyncload.cpu_time import allowed_cpus, program_seconds
from asyncload.loader._options import Priority
from asyncload.report import ProgressReporter

__all__ = ["run"]

Array = npt.NDArray[Any]
Predict = Callable[[Array], Array]

_SERVED = "MobileNetV3Small"
_ANY_SIZE = 224  # pixels, where a model takes pictures of any size
_ROUNDS = 3
# Seconds between one answer and the next request: the server leaves half of the CPUs, even where
# there is one. Beside a busier one, loads in the background take their time.
_PAUSE = 0.02
_IDLE = 2.0  # seconds for which the server is measured with nothing loading

# Way -> the priority that asyncload loads with.
_PRIORITIES: dict[str, Priority] = {"asyncload": "demand", "asyncload_background": "background"}
# Way -> heading of its column.
_WAYS = {
    "asyncload": "asyncload",
    "asyncload_background": "in background",
    "keras": "Keras, thread",
    "idle": "no load",
}


@dataclass(slots=True)
class Measured:
    """What one way of loading did, over all rounds.

    Attributes:
        seconds: of each load.
        lags: of the loop, seconds.
        waits: from a request to its answer, seconds, for requests answered meanwhile.
    """

    seconds: list[float] = field(default_factory=list)
    lags: list[float] = field(default_factory=list)
    waits: list[float] = field(default_factory=list)

    def summary(self) -> dict[str, Any]:
        """Return it for JSON."""
        return {
            "load_seconds": self.seconds,
            "loop_stall_ms": asdict(Stall.of(self.lags)),
            "requests_answered": len(self.waits),
            "request_ms": asdict(Stall.of(self.waits)),
        }


class Server:
    """Answers inference requests with whichever model it was last given.

    Args:
        predict: the model's function; runs on the server's own thread.
    """

    def __init__(self, predict: Predict) -> None:
        self._predict = predict
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="demo-inference")
        self.waits: list[float] = []

    async def answer(self, inputs: Array) -> Array:
        """Answer one request."""
        begin = time.perf_counter()
        loop = asyncio.get_running_loop()
        outputs = await loop.run_in_executor(self._thread, self._predict, inputs)
        self.waits.append(time.perf_counter() - begin)
        return outputs

    def switch(self, predict: Predict) -> None:
        """Answer with another model from the next request on."""
        self._predict = predict

    def close(self) -> None:
        """End the thread."""
        self._thread.shutdown()


async def run(name: str, *, as_json: bool) -> None:
    """Run the demo.

    Args:
        name: the class in ``keras.applications`` of the model that is loaded.
        as_json: print the measurements as JSON on standard output, the rest on standard error.
    """
    console = Console(stderr=as_json)
    with tempfile.TemporaryDirectory(prefix="asyncload-demo-") as folder:
        path = Path(folder) / f"{name}.keras"
        with console.status("importing TensorFlow, saving models with random weights ..."):
            served = await asyncio.to_thread(_prepare, name, path)
        size = (await anyio.Path(path).stat()).st_size
        console.print(f"serving {_SERVED} while {name} loads, {_ROUNDS} times each way")
        report = {"model": name, "nbytes": size, **await _serve(served, path, console)}
    if as_json:
        sys.stdout.write(json.dumps(report, indent=2) + "\n")
    else:
        console.print(_table(report))


async def _serve(served: Any, path: Path, console: Console) -> dict[str, Any]:
    inputs = _inputs(served)
    server = Server(await asyncio.to_thread(_warm, served))
    client = asyncio.create_task(_ask(server, inputs), name="demo-client")
    try:
        measured = {way: Measured() for way in _WAYS}
        worked = program_seconds() or 0.0
        await _measure(server, measured["idle"], lambda: asyncio.sleep(_IDLE))
        worked = (program_seconds() or 0.0) - worked
        busy = worked / sum(measured["idle"].seconds) / allowed_cpus()
        console.print(f"with nothing loading, its answers take {busy:.0%} of the CPUs")
        models = await _rounds(server, measured, path, console)
        with console.status("warming up what was loaded, beside the server ..."):
            theirs = models.pop("keras")
            equal = await asyncio.to_thread(_same_weights, theirs, *models.values())
            mine = models["asyncload"]
            predict = await asyncio.to_thread(_warm, mine)
            reference = await asyncio.to_thread(_warm, theirs)
        await _stop(client)
        server.switch(predict)
        question = _inputs(mine)
        answer, expected = (
            await server.answer(question),
            await asyncio.to_thread(reference, question),
        )
    finally:
        client.cancel()
        server.close()
    return {
        **{way: each.summary() for way, each in measured.items()},
        "cpus_busy": busy,
        "outputs_equal": answer.tobytes() == expected.tobytes(),
        "weights_equal": equal,
    }


async def _rounds(
    server: Server, measured: dict[str, Measured], path: Path, console: Console
) -> dict[str, Any]:
    """Load in all ways, in turns; return the last model of each."""
    ways: dict[str, Callable[[], Awaitable[Any]]] = {
        way: partial(_load, path, priority, console) for way, priority in _PRIORITIES.items()
    }
    ways["keras"] = partial(_load_stock, path, console)
    models: dict[str, Any] = {}
    for _ in range(_ROUNDS):
        for way, load in ways.items():
            models.pop(way, None)  # one of each in memory is enough
            models[way] = await _measure(server, measured[way], load)
    return models


async def _stop(client: asyncio.Task[None]) -> None:
    client.cancel()
    await asyncio.wait([client])
    if not client.cancelled():
        client.result()  # raises what stopped it before


async def _ask(server: Server, inputs: Array) -> None:
    while True:
        await server.answer(inputs)
        await asyncio.sleep(_PAUSE)


async def _measure(server: Server, measured: Measured, work: Callable[[], Awaitable[Any]]) -> Any:
    server.waits.clear()
    async with LoopProbe() as probe:
        server.waits.clear()
        begin = time.perf_counter()
        result = await work()
        measured.seconds.append(time.perf_counter() - begin)
    measured.lags += probe.lags
    measured.waits += server.waits
    return result


async def _load(path: Path, priority: Priority, console: Console) -> Any:
    task = prefetch(path, priority=priority)
    with ProgressReporter(console=console) as bar:
        async for event in task.events():
            bar(event)
    return await task


async def _load_stock(path: Path, console: Console) -> Any:
    import keras

    begin = time.perf_counter()
    model = await asyncio.to_thread(keras.models.load_model, path)
    console.print(f"keras.models.load_model in a thread: {time.perf_counter() - begin:.2f} s")
    return model


# --- what runs in threads ----------------------------------------------------------------


def _prepare(name: str, path: Path) -> Any:
    with _silence():
        import keras

        keras.utils.set_random_seed(7)
        getattr(keras.applications, name)(weights=None).save(path)
        return getattr(keras.applications, _SERVED)(weights=None)


@contextmanager
def _silence() -> Iterator[None]:
    """Keep TensorFlow's notes on this machine, written as it is imported, off the terminal."""
    kept = os.dup(2)
    with open(os.devnull, "wb") as nowhere:
        os.dup2(nowhere.fileno(), 2)
    try:
        yield
    finally:
        os.dup2(kept, 2)
        os.close(kept)


def _inputs(model: Any) -> Array:
    shape = [size or _ANY_SIZE for size in model.input_shape[1:]]
    return np.random.default_rng(7).random((1, *shape), np.float32) * 255


def _warm(model: Any) -> Predict:
    """Return the model's function, called once so that it is traced."""
    import tensorflow as tf

    function = tf.function(lambda inputs: model(inputs, training=False))

    def predict(inputs: Array) -> Array:
        outputs: Array = function(tf.constant(inputs)).numpy()
        return outputs

    predict(_inputs(model))
    return predict


def _same_weights(one: Any, *others: Any) -> bool:
    weights = one.get_weights()
    return all(
        a.dtype == b.dtype and a.tobytes() == b.tobytes()
        for other in others
        for a, b in zip(weights, other.get_weights(), strict=True)
    )


# --- the table ---------------------------------------------------------------------------


def _table(report: dict[str, Any]) -> Table:
    table = Table(title=f"{report['model']}, {decimal(report['nbytes'])}", title_justify="left")
    table.add_column("")
    for heading in _WAYS.values():
        table.add_column(heading, justify="right")
    loading = [report[way] for way in _WAYS if way != "idle"]
    for label, pick in (("the first", _first), (f"best of {_ROUNDS}", min)):
        table.add_row(f"load, {label}", *(f"{pick(way['load_seconds']):.2f} s" for way in loading))
    ways = [report[way] for way in _WAYS]
    for part in ("p50", "p99", "max"):
        cells = [f"{way['loop_stall_ms'][part]:.2f} ms" for way in ways]
        table.add_row(f"loop's stall, {part}", *cells)
    table.add_row("requests answered", *(_answered(way) for way in ways))
    table.add_row("slowest answer", *(f"{way['request_ms']['max']:.0f} ms" for way in ways))
    table.add_section()
    for label, key in (("outputs", "outputs_equal"), ("weights", "weights_equal")):
        verdict = "[green]equal[/]" if report[key] else "[bold red]DIFFERENT[/]"
        table.add_row(f"{label}, bit for bit", verdict)
    return table


def _first(seconds: list[float]) -> float:
    return seconds[0]


def _answered(way: dict[str, Any]) -> str:
    count = way["requests_answered"]
    return f"{count} ({count / sum(way['load_seconds']):.0f}/s)"
