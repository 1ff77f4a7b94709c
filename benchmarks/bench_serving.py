"""Slots while they serve: requests beside swaps, with Keras in a thread doing the same.

python benchmarks/bench_serving.py [--quick] [--rounds N] [--json FILE]

A small model answers at 70 % of what the machine can do at the moment, while large ones arrive in
another slot.
"""

from __future__ import annotations

import asyncio
import gc
import itertools
import statistics
import sys
import time
import weakref
from collections.abc import Awaitable, Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any
from weakref import WeakKeyDictionary

import numpy as np
import psutil
import uvloop
from _measure import CACHE, Options, Report, options, read_all, seconds
from _requests import AT_ONCE, Answers, Requests, p99
from _undisturbed import Mark, stolen_seconds, undisturbed
from bench_keras import model_file

import asyncload
from asyncload._probe import LoopProbe, Stall
from asyncload.cpu_time import count_as_ours

# Model -> side of its images.
MODELS = {"ResNet152": 224, "EfficientNetB7": 600}
QUICK = {"EfficientNetB0": 224}
FOREGROUND = "MobileNetV3Small"

WINDOW, QUICK_WINDOW = 10.0, 2.0  # seconds of requests beside each way of loading, in each round
# Loads outlast the window beside requests: a slow spell of the machine has to be as likely without.
NOTHING = 2  # windows without loading
SWAPS, QUICK_SWAPS = 1000, 100
EARLY = 10  # swaps before memory is looked at for the first time
STEADY = 5  # requests

THROUGHPUT, LATENCY = 0.9, 1.3  # beside the same without loading
SWAP, FIRST_REQUEST = 30.0, 1.2
P99, MAX = 2.0, 15.0  # ms of stall
MEMORY = 1.02

# Twice in each round: how far the two are apart says what the machine's own noise is.
IDLE, AGAIN = "nothing loads", "nothing loads, again"
STOCK = "keras in a thread"
BY_ROUNDS = "p99, median of rounds"
OWN = "without the host's seconds"


def next_version(path: Path) -> Path:
    """Return the same model with other values, made on first use.

    But for what its Normalization layers know of the data: that stands in what is traced, so that
    a version where it differs has to be built (README, Limits), and training does not change it.
    """
    other = path.with_name(f"{path.stem}-trained{path.suffix}")
    if not other.exists():
        import keras

        model = keras.models.load_model(path, compile=False)
        for layer in model.layers:
            if not isinstance(layer, keras.layers.Normalization):
                for variable in layer.weights:
                    variable.assign(variable * 1.01)
        unfinished = other.with_name(f"unfinished-{other.name}")
        model.save(unfinished)
        unfinished.rename(other)
    return other


class Answering:
    """Calls models by a function of each, as services do: traced once, kept with the model."""

    def __init__(self, side: int) -> None:
        self._functions: WeakKeyDictionary[Any, Any] = WeakKeyDictionary()
        self._image = np.random.default_rng(0).random((1, side, side, 3), "float32")

    def __call__(self, model: Any) -> Any:
        """Answer one request; runs in a thread."""
        import tensorflow as tf

        function = self._functions.get(model)
        if function is None:
            function = self._functions[model] = _traced(model)
        return function(tf.constant(self._image)).numpy()


def _traced(model: Any) -> Any:
    import tensorflow as tf

    reference = weakref.ref(model)  # or the function would keep what it is kept with

    def call(x: Any) -> Any:
        living: Any = reference()
        return living(x, training=False)

    return tf.function(call)


@dataclass(slots=True)
class Beside:
    """What was measured of requests while one way of loading was under way.

    Attributes:
        answers: all of them.
        lags: of the loop, seconds.
        took: seconds of each load.
        p99s: milliseconds, of each round.
        own: waits and lags in seconds that were the machine's own.
        seconds: how many there were, and how many of them the machine's own.
    """

    answers: Answers = field(default_factory=Answers)
    lags: list[float] = field(default_factory=list)
    took: list[float] = field(default_factory=list)
    p99s: list[float] = field(default_factory=list)
    own: tuple[list[float], list[float]] = field(default_factory=lambda: ([], []))
    seconds: tuple[float, float] = (0.0, 0.0)

    def end(self, marks: Sequence[Mark]) -> None:
        """Have measured one round."""
        self.p99s.append(self.answers.p99)
        own = list(undisturbed(marks))
        for begin, end in own:
            self.own[0].extend(self.answers.waits[begin.answers : end.answers])
            self.own[1].extend(self.lags[begin.lags : end.lags])
        self.seconds = marks[-1].at - marks[0].at, sum(end.at - begin.at for begin, end in own)

    def add(self, other: Beside) -> None:
        """Take in what was measured in another round, or of another way."""
        self.answers.add(other.answers)
        self.lags += other.lags
        self.took += other.took
        self.p99s += other.p99s
        for mine, others in zip(self.own, other.own, strict=True):
            mine.extend(others)
        self.seconds = self.seconds[0] + other.seconds[0], self.seconds[1] + other.seconds[1]

    @property
    def left_out(self) -> float:
        """The part of the time that was not the machine's own."""
        return 1 - self.seconds[1] / self.seconds[0]

    @property
    def by_rounds(self) -> float:
        """Milliseconds: the median of the rounds' p99s.

        Each round has whole loads in it, so whatever a load does to answers is in most rounds.
        """
        return statistics.median(self.p99s)

    def __str__(self) -> str:
        """Say what is looked at first."""
        stall = Stall.of(self.lags)
        loads = " ".join(f"{load:.1f}" for load in self.took)
        return f"{self.answers}, stall {stall.p99:.2f} {stall.max:.1f} ms, loads {loads} s"


async def beside(
    requests: Requests, window: float, work: Callable[[], Awaitable[object]]
) -> Beside:
    """Do work again and again beside requests."""
    marks: list[Mark] = []
    async with requests.coming() as answers, LoopProbe() as probe:
        found = Beside(answers, probe.lags)

        def mark() -> None:
            counts = len(answers.waits), len(probe.lags)
            marks.append(Mark(time.perf_counter(), stolen_seconds(), *counts))

        async def each_second() -> None:
            while True:
                mark()
                await asyncio.sleep(1)

        marking = asyncio.create_task(each_second())
        end = time.perf_counter() + window
        while time.perf_counter() < end:
            found.took.append((await seconds(work))[0])
        marking.cancel()
        mark()
    found.end(marks)
    return found


async def main(given: Options) -> None:
    report = Report("Serving", given)
    window = QUICK_WINDOW if given.quick else WINDOW
    small = await asyncio.to_thread(model_file, FOREGROUND)
    answer = Answering(224)
    async with asyncload.Loader() as loader, asyncload.ModelSlot(small, loader=loader) as slot:
        await slot.run(answer)

        requests = Requests(lambda: slot.run(answer))
        for name, side in (QUICK if given.quick else MODELS).items():
            first = await asyncio.to_thread(model_file, name)
            paths = [first, await asyncio.to_thread(next_version, first)]
            await asyncio.to_thread(read_all, paths)
            await foreground(report, name, loader, paths, requests, window, given.rounds)
            await speed(report, name, loader, paths, side, given.rounds)
    await many_swaps(report, QUICK_SWAPS if given.quick else SWAPS)
    report.finish()


class LoadingThread:
    """A thread of its own, whose CPU time is not taken for that of answers."""

    def __init__(self) -> None:
        self._pool = ThreadPoolExecutor(1, initializer=count_as_ours)

    async def run(self, function: Callable[..., object], *args: Any, **options: Any) -> None:
        """Call a function there, and drop what it returns."""
        loop = asyncio.get_running_loop()
        await loop.run_in_executor(self._pool, partial(function, *args, **options))


async def foreground(
    report: Report,
    name: str,
    loader: asyncload.Loader,
    paths: Sequence[Path],
    requests: Requests,
    window: float,
    rounds: int,
) -> None:
    """Measure requests while nothing loads, models arrive in a slot, and Keras loads, in turns."""
    import keras

    turn, keras_thread = itertools.cycle(reversed(paths)), LoadingThread()
    reusing = asyncload.ModelSlot(paths[0], loader=loader)
    building = asyncload.ModelSlot(paths[0], loader=loader, spare=False)
    ways: dict[str, Callable[[], Awaitable[object]]] = {
        IDLE: lambda: asyncio.sleep(NOTHING * window),
        "same architecture": lambda: reusing.swap(next(turn)),
        AGAIN: lambda: asyncio.sleep(NOTHING * window),
        "built anew": lambda: building.swap(next(turn)),
        STOCK: lambda: keras_thread.run(keras.models.load_model, next(turn), compile=False),
    }
    found = {way: Beside() for way in ways}
    async with reusing, building:
        for _ in range(3):  # builds what is reused from then on
            await reusing.swap(next(turn))
        for number, (way, work) in itertools.product(range(rounds), ways.items()):
            gc.collect()  # what Keras left, before it takes time from what is measured here
            measured = await beside(requests, window, work)
            found[way].add(measured)
            print(f"{name}, {number + 1}, {way}: {measured}", file=sys.stderr)
    show(report, name, found)


def show(report: Report, name: str, found: Mapping[str, Beside]) -> None:
    """Report what was measured beside each way of loading."""
    idle = Beside()
    for way in (IDLE, AGAIN):
        idle.add(found[way])
    _show_idle(report, name, idle, found)
    for way, measured in found.items():
        if way not in (IDLE, AGAIN):
            _show_beside(report, f"{name}, {way}", measured, idle, asked=way != STOCK)


def _show_idle(report: Report, name: str, idle: Beside, found: Mapping[str, Beside]) -> None:
    one, again, what = found[IDLE], found[AGAIN], f"{name}, {IDLE}"
    stall = Stall.of(idle.lags)
    report.note(f"{what}, answers", idle.answers.rate, "/s")
    report.note(f"{what}, CPUs busy", idle.answers.busy * 100, "%")
    report.note(f"{what}, p99", idle.answers.p99, "ms")
    report.note(f"{what}, {BY_ROUNDS}", idle.by_rounds, "ms")
    report.note(f"{what}, stall p99", stall.p99, "ms")
    report.note(f"{what}, stall max", stall.max, "ms")
    _note_own(report, what, idle)
    report.note(f"{what}, p99, {OWN}", p99(idle.own[0]), "ms")
    report.note(f"{name}, {AGAIN}, p99", again.answers.p99 / one.answers.p99, "x")
    report.note(f"{name}, {AGAIN}, {BY_ROUNDS}", again.by_rounds / one.by_rounds, "x")
    report.note(f"{name}, {AGAIN}, p99, {OWN}", p99(again.own[0]) / p99(one.own[0]), "x")


def _show_beside(report: Report, what: str, measured: Beside, idle: Beside, *, asked: bool) -> None:
    report.note(f"{what}, loads beside requests", float(len(measured.took)), "")
    report.note(f"{what}, each of them", statistics.median(measured.took), "s")
    report.note(f"{what}, {BY_ROUNDS}", measured.by_rounds / idle.by_rounds, "x")
    report.note(f"{what}, p99, {OWN}", p99(measured.own[0]) / p99(idle.own[0]), "x")
    _note_own(report, what, measured)
    stall = Stall.of(measured.lags)
    throughput = measured.answers.rate / idle.answers.rate
    bounds = {
        "p99": (measured.answers.p99 / idle.answers.p99, "x", LATENCY),
        "stall p99": (stall.p99, "ms", P99),
        "stall max": (stall.max, "ms", MAX),
        "requests failed": (measured.answers.failures, "", 0),
    }
    if asked:
        report.figure(f"{what}, throughput", throughput, "x", at_least=THROUGHPUT)
        for part, (value, unit, at_most) in bounds.items():
            report.bound(f"{what}, {part}", value, unit, at_most=at_most)
    else:
        report.note(f"{what}, throughput", throughput, "x")
        for part, (value, unit, _) in bounds.items():
            report.note(f"{what}, {part}", value, unit)


def _note_own(report: Report, what: str, measured: Beside) -> None:
    stall = Stall.of(measured.own[1])
    report.note(f"{what}, the host's seconds", measured.left_out * 100, "%")
    report.note(f"{what}, stall p99, {OWN}", stall.p99, "ms")
    report.note(f"{what}, stall max, {OWN}", stall.max, "ms")


async def speed(
    report: Report,
    name: str,
    loader: asyncload.Loader,
    paths: Sequence[Path],
    side: int,
    rounds: int,
) -> None:
    """Measure a swap to a version of the same architecture, and the first request after it."""
    import keras

    image = np.random.default_rng(0).random((1, side, side, 3), "float32")

    def predict(model: Any) -> Any:
        return model.predict(image, verbose=0)

    def stock(path: Path) -> None:
        predict(keras.models.load_model(path, compile=False))

    took: dict[str, list[float]] = {"asyncload": [], "keras": []}
    after: list[float] = []
    turn = itertools.cycle(reversed(paths))
    async with asyncload.ModelSlot(paths[0], loader=loader) as slot:
        for _ in range(2):
            await slot.run(predict)
            await slot.swap(next(turn))
        await slot.run(predict)
        for _ in range(rounds):
            steady = [(await seconds(lambda: slot.run(predict)))[0] for _ in range(STEADY)]
            path = next(turn)
            gc.collect()
            took["keras"].append((await seconds(lambda p=path: asyncio.to_thread(stock, p)))[0])  # type: ignore[misc]
            gc.collect()
            took["asyncload"].append((await seconds(lambda p=path: slot.swap(p)))[0])  # type: ignore[misc]
            first = (await seconds(lambda: slot.run(predict)))[0]
            after.append(first / statistics.median(steady))
    report.runs(f"{name}, the next version", took)
    ratio = min(took["keras"]) / min(took["asyncload"])
    what = f"{name}, a swap to the same architecture, beside load_model and first predict"
    report.figure(what, ratio, "x", at_least=SWAP)
    first = statistics.median(after)
    report.bound(f"{name}, first request after it", first, "x", at_most=FIRST_REQUEST)


# --- a thousand swaps ----------------------------------------------------------------------

_PARTS, _SIDE = 4, 64


def versions() -> list[Path]:
    """Return models with nothing but their version in their weights, made on first use."""
    paths = [CACHE / "serving" / f"{version}.keras" for version in range(1, 5)]
    if not all(path.exists() for path in paths):
        import keras

        inputs = keras.Input((_SIDE,), name="x")
        parts = [keras.layers.Dense(_SIDE, name=f"part{i}")(inputs) for i in range(_PARTS)]
        model = keras.Model(inputs, keras.layers.Concatenate(name="parts")(parts), name="m")
        paths[0].parent.mkdir(exist_ok=True)
        for version, path in enumerate(paths, 1):
            for variable in model.weights:
                variable.assign(np.full(variable.shape, version, "float32"))
            model.save(path)
    return paths


def version_of(model: Any) -> int:
    """Return the version that all of a model's parts answer with; 0 if they differ."""
    values = model(np.ones((1, _SIDE), "float32")).numpy() / (_SIDE + 1)
    return int(values.min()) if values.min() == values.max() else 0


async def many_swaps(report: Report, count: int) -> None:
    """Swap again and again beside requests, whose answers say which version gave them."""
    paths = await asyncio.to_thread(versions)
    answered = failed = mixed = 0
    ended = False

    async def client(slot: asyncload.ModelSlot) -> None:
        nonlocal answered, failed, mixed
        while not ended:
            lease = slot.lease()
            try:
                async with lease as model:
                    version = await asyncio.to_thread(version_of, model)
                    mixed += lease.uri != str(paths[version - 1]) or not version
                answered += 1
            except Exception as error:  # noqa: BLE001 - counted
                failed += 1
                print("failed:", type(error).__name__, error)

    process = psutil.Process()
    async with asyncload.Loader() as loader, asyncload.ModelSlot(paths[0], loader=loader) as slot:
        clients = [asyncio.create_task(client(slot)) for _ in range(AT_ONCE)]
        begin = time.perf_counter()
        early = 0
        for number in range(1, count + 1):
            await slot.swap(paths[number % len(paths)])
            if number == EARLY:
                gc.collect()
                early = process.memory_info().rss
        elapsed = time.perf_counter() - begin
        ended = True
        await asyncio.gather(*clients)
        gc.collect()
        late = process.memory_info().rss
    report.note(f"{count} swaps, answers meanwhile", float(answered), "")
    report.note(f"{count} swaps, each", elapsed / count * 1e3, "ms")
    report.bound(f"{count} swaps, requests failed", failed, "", at_most=0)
    report.bound(f"{count} swaps, answers of two versions", mixed, "", at_most=0)
    report.bound(
        f"{count} swaps, memory beside that after {EARLY}", late / early, "x", at_most=MEMORY
    )


if __name__ == "__main__":
    uvloop.run(main(options(__doc__)))
