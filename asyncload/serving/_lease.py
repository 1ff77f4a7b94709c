"""`Lease`, the right to use a model for a while, and `Generation`, the model that it is of."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from types import TracebackType
from typing import Any, Protocol

from asyncload.errors import LeaseTimeout
from asyncload.loader._brief import brief
from asyncload.loader._retained import Retained
from asyncload.redaction import shown

__all__ = ["LEASE_TIMEOUT", "Generation", "Lease", "Lessor", "Target", "holders"]

LEASE_TIMEOUT = 60.0  # seconds that slots and caches wait for leases to end
_NAMED = 5  # holders in a message


@dataclass(frozen=True, slots=True)
class Target:
    """What is to be loaded.

    Attributes:
        uri: as the Loader takes it.
        version: its number, if it has one.
    """

    uri: str = field(repr=False)
    version: int | None = None

    @property
    def shown(self) -> str:
        """The URI for messages, without credentials."""
        return shown(self.uri)


class Generation:
    """One model that was loaded, and the leases that hold it; of the loop's thread.

    Args:
        model: what the Loader returned.
        target: what it was loaded from.
        nbytes: of the tensors that were read for it.
        retained: counts them in the Loader's budget.
        load_id: of the load that brought it.
        on_unheld: called whenever its last lease has ended.

    Attributes:
        gone: set once it was retired, and its model dropped.
    """

    __slots__ = (
        "_on_unheld", "_unheld", "gone", "leases", "load_id", "model", "nbytes", "retained",
        "target",
    )  # fmt: skip

    def __init__(
        self,
        model: Any,
        target: Target,
        nbytes: int,
        retained: Retained,
        *,
        load_id: int = 0,
        on_unheld: Callable[[], None] | None = None,
    ) -> None:
        self.model = model
        self.load_id = load_id
        self.target = target
        self.nbytes = nbytes
        self.retained = retained
        self.gone = asyncio.Event()
        self.leases: set[Lease] = set()
        self._on_unheld = on_unheld
        self._unheld: asyncio.Event | None = None  # made for whoever waits

    def release(self, lease: Lease) -> None:
        """Let a lease go."""
        self.leases.discard(lease)
        if not self.leases:
            if self._unheld is not None:
                self._unheld.set()
            if self._on_unheld is not None:
                self._on_unheld()

    async def unheld(self, patience: float | None = None) -> None:
        """Wait until no lease holds it.

        Args:
            patience: seconds; ``None`` for as long as it takes.

        Raises:
            LeaseTimeout: leases still hold it then.
        """
        if not self.leases:
            return
        if self._unheld is None:
            self._unheld = asyncio.Event()
        try:
            async with asyncio.timeout(patience):
                while self.leases:
                    self._unheld.clear()
                    await self._unheld.wait()
        except TimeoutError:
            raise LeaseTimeout(
                f"is still leased after {patience:.6g} s of waiting, by {holders(self.leases)}. "
                "Leave the `async with slot.lease()` block as soon as the answer is there.",
                uri=self.target.shown,
            ) from None


class Lessor(Protocol):
    """Where a `Lease` gets its model."""

    @property
    def current(self) -> Generation | None:
        """What a lease gets that asks for nothing special, if it is there."""
        ...

    async def find(self, version: int | None) -> Generation:
        """Return a model, once there is one."""
        ...


class Lease:
    """The right to use a model for the time of an ``async with`` block, which gives the model.

    Attributes:
        task: name of the task that holds it; ``""`` before and after.
        seconds: for how long it has been held.
    """

    __slots__ = ("_generation", "_lessor", "_since", "_task", "_wanted")

    def __init__(self, lessor: Lessor, version: int | None = None) -> None:
        self._lessor = lessor
        self._wanted = version
        self._generation: Generation | None = None
        self._task: asyncio.Task[Any] | None = None
        self._since = 0.0

    @brief
    async def __aenter__(self) -> Any:
        if self._generation is not None:
            raise RuntimeError("this lease is held already; ask for another with lease()")
        generation = self._lessor.current
        if generation is None or self._wanted is not None:
            generation = await self._lessor.find(self._wanted)
        # Nothing is awaited from here on: what was found cannot be retired before it is held.
        self._task = asyncio.current_task()
        self._since = time.monotonic()
        self._generation = generation
        generation.leases.add(self)
        return generation.model

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        generation, self._generation = self._generation, None
        self._task = None
        if generation is not None:
            generation.release(self)

    @property
    def uri(self) -> str | None:
        """What the model was loaded from, without credentials; ``None`` unless it is held."""
        return None if self._generation is None else self._generation.target.shown

    @property
    def version(self) -> int | None:
        """The model's version, if it has one and the lease is held."""
        return None if self._generation is None else self._generation.target.version

    @property
    def task(self) -> str:
        """Name of the task that holds it; empty unless it is held."""
        return "" if self._task is None else self._task.get_name()

    @property
    def seconds(self) -> float:
        """For how long it has been held; 0 unless it is."""
        return 0.0 if self._generation is None else time.monotonic() - self._since

    def is_of(self, task: asyncio.Task[Any] | None) -> bool:
        """Whether this task holds it."""
        return task is not None and self._task is task

    def __repr__(self) -> str:
        if self._generation is None:
            return "<Lease, not held>"
        return f"<Lease of {self.uri} by {self.task} for {self.seconds:.3f} s>"


def holders(leases: Iterable[Lease]) -> str:
    """Return who holds leases and for how long, the longest first, for a message."""
    found = sorted(leases, key=lambda lease: -lease.seconds)
    named = [f"task {each.task!r} for {each.seconds:.1f} s" for each in found[:_NAMED]]
    if more := len(found) - len(named):
        named.append(f"{more} more")
    return ", ".join(named)
