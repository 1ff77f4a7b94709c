"""``asyncload demo``: serve model A while model B loads, and measure what the server noticed.

The same is done twice, with asyncload and with ``keras.models.load_model`` in a thread, in turns,
in one process. Nothing is printed that was not measured in that run.
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
from asyncload.report import ProgressReporter

__all__ = ["run"]

Array = npt.NDArray[Any]
Predict = Callable[[Array], Array]

_SERVED = "MobileNetV3Small"
_ANY_SIZE = 224  # pixels, where a model takes pictures of any size
_ROUNDS = 3
_PAUSE = 0.01  # seconds between one answer and the next request
_IDLE = 2.0  # seconds for which the server is measured with nothing loading


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
        idle = Measured()
        await _measure(server, idle, lambda: asyncio.sleep(_IDLE))
        ours, stock = Measured(), Measured()
        mine = theirs = None
        for _ in range(_ROUNDS):
            mine = theirs = None  # one pair of models in memory is enough
            mine = await _measure(server, ours, lambda: _prefetch(path, console))
            theirs = await _measure(server, stock, lambda: _load_stock(path, console))
        with console.status("warming up what was loaded, beside the server ..."):
            equal = await asyncio.to_thread(_same_weights, mine, theirs)
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
        "asyncload": ours.summary(),
        "keras": stock.summary(),
        "idle": idle.summary(),
        "outputs_equal": answer.tobytes() == expected.tobytes(),
        "weights_equal": equal,
    }


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


async def _prefetch(path: Path, console: Console) -> Any:
    task = prefetch(path)
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


def _same_weights(one: Any, other: Any) -> bool:
    pairs = zip(one.get_weights(), other.get_weights(), strict=True)
    return all(a.dtype == b.dtype and a.tobytes() == b.tobytes() for a, b in pairs)


# --- the table ---------------------------------------------------------------------------


def _table(report: dict[str, Any]) -> Table:
    ours, stock, idle = report["asyncload"], report["keras"], report["idle"]
    table = Table(title=f"{report['model']}, {decimal(report['nbytes'])}", title_justify="left")
    for heading in ("", "asyncload", "keras in a thread", "nothing loads"):
        table.add_column(heading, justify="right" if heading else "left")
    first, best = (
        [f"{pick(way['load_seconds']):.2f} s" for way in (ours, stock)]
        for pick in (lambda seconds: seconds[0], min)
    )
    table.add_row("load, the first", *first, "")
    table.add_row(f"load, best of {_ROUNDS}", *best, "")
    for label, key in (("p50", "p50"), ("p99", "p99"), ("max", "max")):
        cells = [f"{way['loop_stall_ms'][key]:.2f} ms" for way in (ours, stock, idle)]
        table.add_row(f"event loop's stall, {label}", *cells)
    counts = [_answered(way) for way in (ours, stock, idle)]
    table.add_row("requests answered meanwhile", *counts)
    slowest = [f"{way['request_ms']['max']:.0f} ms" for way in (ours, stock, idle)]
    table.add_row("slowest answer", *slowest)
    table.add_section()
    for label, key in (("outputs", "outputs_equal"), ("weights", "weights_equal")):
        verdict = "[green]equal[/]" if report[key] else "[bold red]DIFFERENT[/]"
        table.add_row(f"{label}, bit for bit", verdict, "", "")
    return table


def _answered(way: dict[str, Any]) -> str:
    count = way["requests_answered"]
    return f"{count} ({count / sum(way['load_seconds']):.0f}/s)"
