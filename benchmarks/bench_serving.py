"""Slots while they serve: requests beside swaps, with Keras in a thread doing the same.

python benchmarks/bench_serving.py [--quick] [--rounds N] [--json FILE]

A small model answers at 70 % of what the machine can do, while large ones arrive in another slot.
"""

from __future__ import annotations

import asyncio
import contextlib
import gc
import itertools
import statistics
import time
import weakref
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from weakref import WeakKeyDictionary

import numpy as np
import psutil
import uvloop
from _measure import CACHE, Options, Report, options, read_all, seconds
from bench_keras import model_file

import asyncload
from asyncload._probe import LoopProbe, Stall
from asyncload.cpu_time import usable_cpus

# Model -> side of its images.
MODELS = {"ResNet152": 224, "EfficientNetB7": 600}
QUICK = {"EfficientNetB0": 224}
FOREGROUND = "MobileNetV3Small"

SHARE = 0.7  # of the machine's capacity that requests take
CLOSED = 2.0  # seconds in which the capacity is measured, before each way of loading
LEAD = 1.0  # seconds of requests before anything is measured or loaded
WINDOW, QUICK_WINDOW = 10.0, 2.0  # seconds of requests beside each way of loading, in each round
# Loads outlast the window beside requests: a slow spell of the machine has to be as likely without.
NOTHING = 2  # windows without loading
AT_ONCE = 2  # requests that are computed at once
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

Ask = Callable[[], Awaitable[Any]]


def next_version(path: Path) -> Path:
    """Return the same model with other values, made on first use."""
    other = path.with_name(f"{path.stem}-next{path.suffix}")
    if not other.exists():
        import keras

        model = keras.models.load_model(path, compile=False)
        for variable in model.weights:
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
class Answers:
    """What became of requests that came at a steady rate.

    Attributes:
        waits: seconds from when each was due to its answer.
        failures: how many got none.
        offered: how many came.
        span: seconds from the first that was due to the last answer.
        worked: seconds of this process's CPU time meanwhile.
    """

    waits: list[float] = field(default_factory=list)
    failures: int = 0
    offered: float = 0.0
    span: float = 0.0
    worked: float = 0.0

    def begin(self) -> None:
        """Forget what came before: it was not to be measured."""
        self.waits.clear()
        self.span = -time.perf_counter()
        self.worked = -time.process_time()

    def end(self, rate: float) -> None:
        """Have come to the last answer.

        Args:
            rate: requests that came in each second.
        """
        self.span += time.perf_counter()
        self.worked += time.process_time()
        self.offered = rate * self.span

    def add(self, other: Answers) -> None:
        """Take in what became of others."""
        self.waits += other.waits
        self.failures += other.failures
        self.offered += other.offered
        self.span += other.span
        self.worked += other.worked

    @property
    def throughput(self) -> float:
        """Answers for each request that came, until the last answer."""
        return len(self.waits) / self.offered

    @property
    def rate(self) -> float:
        """Requests a second."""
        return self.offered / self.span

    @property
    def busy(self) -> float:
        """The part of all CPUs that this process had."""
        return self.worked / self.span / usable_cpus()

    @property
    def p99(self) -> float:
        """Milliseconds."""
        return sorted(self.waits)[int(len(self.waits) * 0.99)] * 1e3


async def capacity(ask: Ask) -> float:
    """Return how many requests a second the machine answers, one after the other."""
    end = time.perf_counter() + CLOSED
    count = 0

    async def client() -> None:
        nonlocal count
        while time.perf_counter() < end:
            await ask()
            count += 1

    await asyncio.gather(*(client() for _ in range(AT_ONCE)))
    return count / CLOSED


def offered(answered: Sequence[float]) -> float:
    """Return how many requests a second are 70 % of the capacity.

    What a machine that others share can do falls by a third within minutes, and swings by a tenth
    from one second to the next. So it is measured anew for each way of loading, and one good
    measurement does not count for more than all: requests at 70 % of what a machine could do
    before can be at 90 % of what it can do now, where waits depend on little else.

    Args:
        answered: the capacity, as measured so far, requests a second.
    """
    return SHARE * min(answered[-1], statistics.mean(answered))


@asynccontextmanager
async def requests(ask: Ask, rate: float) -> AsyncIterator[Answers]:
    """Ask at a steady rate, whether answers come or not, until the block ends."""
    answers, ended = Answers(), asyncio.Event()
    places = asyncio.Semaphore(AT_ONCE)

    async def one(due: float) -> None:
        try:
            async with places:
                await ask()
        except Exception as error:  # noqa: BLE001 - counted
            answers.failures += 1
            print("failed:", type(error).__name__, error)
        else:
            answers.waits.append(time.perf_counter() - due)

    async def generate(group: asyncio.TaskGroup) -> None:
        begin = time.perf_counter()
        for number in itertools.count():
            due = begin + number / rate
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(ended.wait(), max(0.0, due - time.perf_counter()))
            if ended.is_set():
                return
            group.create_task(one(due))

    async with asyncio.TaskGroup() as group:
        group.create_task(generate(group))
        try:
            await asyncio.sleep(LEAD)
            answers.begin()
            yield answers
        finally:
            ended.set()
    answers.end(rate)


async def beside(
    ask: Ask, rate: float, window: float, work: Callable[[], Awaitable[object]]
) -> tuple[Answers, list[float], list[float]]:
    """Do work again and again beside requests.

    Returns:
        The answers, the seconds that each piece of work took, the lags of the loop.
    """
    took: list[float] = []
    async with requests(ask, rate) as answers, LoopProbe() as probe:
        end = time.perf_counter() + window
        while time.perf_counter() < end:
            took.append((await seconds(work))[0])
    return answers, took, list(probe.lags)


async def main(given: Options) -> None:
    report = Report("Serving", given)
    window = QUICK_WINDOW if given.quick else WINDOW
    small = await asyncio.to_thread(model_file, FOREGROUND)
    answer = Answering(224)
    async with asyncload.Loader() as loader, asyncload.ModelSlot(small, loader=loader) as slot:
        await slot.run(answer)

        async def ask() -> None:
            await slot.run(answer)

        for name, side in (QUICK if given.quick else MODELS).items():
            first = await asyncio.to_thread(model_file, name)
            paths = [first, await asyncio.to_thread(next_version, first)]
            await asyncio.to_thread(read_all, paths)
            await foreground(report, name, loader, paths, ask, window, given.rounds)
            await speed(report, name, loader, paths, side, given.rounds)
    await many_swaps(report, QUICK_SWAPS if given.quick else SWAPS)
    report.finish()


@dataclass(slots=True)
class Beside:
    """What was measured of requests while one way of loading was under way, over all rounds."""

    answers: Answers = field(default_factory=Answers)
    lags: list[float] = field(default_factory=list)
    took: list[float] = field(default_factory=list)  # seconds of each load
    p99s: list[float] = field(default_factory=list)

    def add(self, answers: Answers, took: Sequence[float], lags: Sequence[float]) -> None:
        """Take in what was measured in one round."""
        self.answers.add(answers)
        self.took += took
        self.lags += lags
        self.p99s.append(answers.p99)

    def add_all(self, other: Beside) -> None:
        """Take in what was measured of another way."""
        self.answers.add(other.answers)
        self.took += other.took
        self.lags += other.lags
        self.p99s += other.p99s

    @property
    def p99(self) -> float:
        """Milliseconds: the median of the rounds.

        Each round has whole loads in it, so whatever a load does to answers is in most rounds. A
        machine that others share is slower by a third for some seconds now and then, whatever
        runs on it: requests pile up then, more than a hundredth of those of all rounds.
        """
        return statistics.median(self.p99s)


async def foreground(
    report: Report,
    name: str,
    loader: asyncload.Loader,
    paths: Sequence[Path],
    ask: Ask,
    window: float,
    rounds: int,
) -> None:
    """Measure requests while nothing loads, models arrive in a slot, and Keras loads, in turns."""
    import keras

    turn = itertools.cycle(reversed(paths))
    reusing = asyncload.ModelSlot(paths[0], loader=loader)
    building = asyncload.ModelSlot(paths[0], loader=loader, spare=False)
    ways: dict[str, Callable[[], Awaitable[object]]] = {
        IDLE: lambda: asyncio.sleep(NOTHING * window),
        "same architecture": lambda: reusing.swap(next(turn)),
        AGAIN: lambda: asyncio.sleep(NOTHING * window),
        "built anew": lambda: building.swap(next(turn)),
        STOCK: lambda: asyncio.to_thread(keras.models.load_model, next(turn), compile=False),
    }
    found = {way: Beside() for way in ways}
    answered: list[float] = []
    async with reusing, building:
        for _ in range(3):  # builds what is reused from then on
            await reusing.swap(next(turn))
        for _ in range(rounds):
            for way, work in ways.items():
                gc.collect()  # what Keras left, before it takes time from what is measured here
                answered.append(await capacity(ask))
                answers, took, lags = await beside(ask, offered(answered), window, work)
                found[way].add(answers, took, lags)
    show(report, name, found)


def show(report: Report, name: str, found: Mapping[str, Beside]) -> None:
    """Report what was measured beside each way of loading."""
    idle = Beside()
    for way in (IDLE, AGAIN):
        idle.add_all(found[way])
    _show_idle(report, name, idle, found)
    for way, measured in found.items():
        if way in (IDLE, AGAIN):
            continue
        what, stall = f"{name}, {way}", Stall.of(measured.lags)
        report.note(f"{what}, loads beside requests", float(len(measured.took)), "")
        report.note(f"{what}, each of them", statistics.median(measured.took), "s")
        report.note(f"{what}, {BY_ROUNDS}", measured.p99 / idle.p99, "x")
        throughput = measured.answers.throughput / idle.answers.throughput
        bounds = {
            "p99": (measured.answers.p99 / idle.answers.p99, "x", LATENCY),
            "stall p99": (stall.p99, "ms", P99),
            "stall max": (stall.max, "ms", MAX),
            "requests failed": (measured.answers.failures, "", 0),
        }
        if way == STOCK:
            report.note(f"{what}, throughput", throughput, "x")
            for part, (value, unit, _) in bounds.items():
                report.note(f"{what}, {part}", value, unit)
        else:
            report.figure(f"{what}, throughput", throughput, "x", at_least=THROUGHPUT)
            for part, (value, unit, at_most) in bounds.items():
                report.bound(f"{what}, {part}", value, unit, at_most=at_most)


def _show_idle(report: Report, name: str, idle: Beside, found: Mapping[str, Beside]) -> None:
    one, other, stall = found[IDLE], found[AGAIN], Stall.of(idle.lags)
    report.note(f"{name}, {IDLE}, requests offered", idle.answers.rate, "/s")
    report.note(f"{name}, {IDLE}, CPUs busy", idle.answers.busy * 100, "%")
    report.note(f"{name}, {IDLE}, p99", idle.answers.p99, "ms")
    report.note(f"{name}, {IDLE}, {BY_ROUNDS}", idle.p99, "ms")
    report.note(f"{name}, {AGAIN}, p99", other.answers.p99 / one.answers.p99, "x")
    report.note(f"{name}, {AGAIN}, {BY_ROUNDS}", other.p99 / one.p99, "x")
    report.note(f"{name}, {IDLE}, stall p99", stall.p99, "ms")
    report.note(f"{name}, {IDLE}, stall max", stall.max, "ms")


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
