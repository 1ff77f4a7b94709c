"""How a slot goes from one model to the next: one swap at a time, of which the later wins."""

from __future__ import annotations

import asyncio
import logging
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Literal

import anyio

from asyncload.errors import LeaseTimeout, ServingClosed, ServingError, SwapSuperseded
from asyncload.events import SwapFailed, Switched
from asyncload.loader._options import Priority, check_priority

from ._bring import Bringer
from ._front import Front
from ._lease import Generation, Target
from ._ledger import Entry, Ledger, Swapped, describe
from ._versions import VersionPolicy

__all__ = ["SwapPolicy", "Swaps"]

SwapPolicy = Literal["availability", "resource"]
Start = Callable[..., object]  # of a task group: (coroutine function, *arguments)

_PAST = 16  # models that `rollback` can go back through
_logger = logging.getLogger("asyncload")


@dataclass(frozen=True, slots=True)
class _Outcome:
    """What a swap did; ``before`` is what served until then."""

    swapped: Swapped
    before: Generation | None


class _Attempt:
    """One swap on its way.

    Args:
        entry: what it is to bring.
        back: whether it goes back to what served before.
        priority: of its load, while another model serves.
        more: whether another one follows if it fails, so that leases of an empty slot wait on.
    """

    def __init__(
        self,
        entry: Entry,
        *,
        back: bool = False,
        priority: Priority = "background",
        more: bool = False,
    ) -> None:
        self.entry = entry
        self.back = back
        self.priority: Priority = priority
        self.more = more
        self.scope = anyio.CancelScope()
        self.superseded: str | None = None  # what an earlier one was to bring
        self.outcome: asyncio.Future[_Outcome] = asyncio.get_running_loop().create_future()
        self._by: str | None = None

    @property
    def overtaken(self) -> bool:
        """Whether a later swap took its place."""
        return self._by is not None

    def give_way(self, by: Target) -> str | None:
        """Stop, if it has not switched yet; return what it was to bring."""
        if self.outcome.done():
            return None
        self._by = by.shown
        self.scope.cancel()
        return self.entry.target.shown

    def fail(self, error: BaseException) -> None:
        """Tell whoever waits."""
        if not self.outcome.done():
            self.outcome.set_exception(error)
            self.outcome.exception()  # no news to log if nobody waits any more

    def stopped(self) -> BaseException:
        """Return what to raise where its scope was cancelled."""
        if self._by is None:
            return asyncio.CancelledError()
        return SwapSuperseded(
            f"gave way to a later swap, to {self._by}; nothing is to be done",
            uri=self.entry.target.shown,
        )


class Swaps:
    """The swaps of one slot; of the loop's thread.

    Args:
        front: what leases see.
        bringer: loads and retires.
        ledger: where it is noted.
        policy: ``"availability"``: the new model is there before the old one goes; ``"resource"``:
            the old one's memory is given back first.
        keep: says which versions stay loaded beside the one that serves.
        lease_timeout: seconds to wait for leases; ``None`` for as long as they last.
        start: starts a task that ends with the slot.
    """

    def __init__(
        self,
        front: Front,
        bringer: Bringer,
        ledger: Ledger,
        *,
        policy: SwapPolicy,
        keep: VersionPolicy,
        lease_timeout: float | None,
        start: Start,
    ) -> None:
        self._front = front
        self._bringer = bringer
        self._ledger = ledger
        self._policy = policy
        self._keep = keep
        self._lease_timeout = lease_timeout
        self._start = start
        self._latest: _Attempt | None = None
        self._turn = asyncio.Lock()
        self._past: deque[Target] = deque(maxlen=_PAST)
        self.newest: int | None = None  # of the versions that have served, of those that are wanted
        self._lost: Target | None = None  # what served, and was dropped for a swap that goes on

    @property
    def under_way(self) -> str | None:
        """What the latest swap is to bring, if it has not ended."""
        latest = self._latest
        return None if latest is None or latest.outcome.done() else latest.entry.target.shown

    async def run(
        self,
        target: Target,
        *,
        back: bool = False,
        priority: Priority = "background",
        more: bool = False,
    ) -> Swapped:
        """Swap; see `ModelSlot.swap`, and `_Attempt` for the arguments."""
        check_priority(priority)
        self._refuse_own_leases()
        entry = self._ledger.begin(target)
        attempt = _Attempt(entry, back=back, priority=priority, more=more)
        earlier, self._latest = self._latest, attempt
        if earlier is not None:
            attempt.superseded = earlier.give_way(target)
        self._front.expect()
        self._start(self._follow, attempt)
        try:
            outcome = await asyncio.shield(attempt.outcome)
        except asyncio.CancelledError:
            attempt.scope.cancel()
            raise
        if outcome.before is not None:
            await self._gone(outcome.before)
        return outcome.swapped

    async def back(self) -> Swapped:
        """Swap to what served before; see `ModelSlot.rollback`."""
        if not self._past:
            raise ServingError("no model served in this slot before the present one")
        target = self._past.pop()
        try:
            return await self.run(target, back=True, priority="demand")
        except BaseException as error:
            if not (isinstance(error, LeaseTimeout) and error.switched):
                self._past.append(target)
            raise

    async def beside(self, target: Target) -> None:
        """Load a version that is kept beside the one that serves, if it is not there yet.

        Raises: as `Loader.load` does.
        """
        async with self._turn:
            if target.version is None or target.version in self._loaded():
                return
            entry = self._ledger.begin(target)
            try:
                generation = await self._bringer.bring(entry, self._urgent_if_empty("background"))
            except BaseException as error:
                await self._drop(entry, error)
                raise
            entry.state = "available"
            self._front.others[target.version] = generation
            self._thin_out()

    def drop_all(self) -> list[Generation]:
        """Retire every model, as the slot closes; return those that are still leased."""
        loaded = [*self._front.others.values()]
        if self._front.current is not None:
            loaded.append(self._front.current)
        self._front.close()
        for generation in loaded:
            self._retire(generation)
        return [each.generation for each in self._ledger.living if each.generation is not None]

    # --- one attempt -----------------------------------------------------------------------

    async def _follow(self, attempt: _Attempt) -> None:
        """Carry a swap out, and tell whoever waits for it."""
        try:
            with attempt.scope:
                async with self._turn:
                    attempt.outcome.set_result(await self._switch(attempt))
            if attempt.scope.cancelled_caught:
                await self._give_up(attempt, attempt.stopped())
        except Exception as error:  # noqa: BLE001 - it is handed to whoever waits
            await self._give_up(attempt, error)
        finally:
            attempt.fail(ServingClosed("the slot was closed before this swap had ended"))

    async def _switch(self, attempt: _Attempt) -> _Outcome:
        entry, front = attempt.entry, self._front
        version = entry.target.version
        kept = None if version is None else front.others.get(version)
        if kept is not None and kept.target == entry.target:
            del front.others[kept.target.version or 0]
            self._ledger.forget(entry)
            return self._serve(attempt, kept)
        if self._policy == "resource":
            await self._make_room(attempt)
        priority = self._urgent_if_empty(attempt.priority)
        return self._serve(attempt, await self._bringer.bring(entry, priority))

    def _urgent_if_empty(self, priority: Priority) -> Priority:
        """Return how urgent a load is: very, while there is no model to answer with."""
        return "demand" if self._front.current is None else priority

    async def _make_room(self, attempt: _Attempt) -> None:
        """Have new leases wait, wait for those that are held, and drop the model."""
        await self._bringer.look(attempt.entry)  # what cannot be loaded anyway interrupts nothing
        before = self._front.withhold()
        if before is None:
            return
        try:
            await before.unheld(self._lease_timeout)
        except BaseException:
            self._front.serve(before)
            raise
        self._lost = before.target
        await self._bringer.retire(before)

    def _serve(self, attempt: _Attempt, generation: Generation) -> _Outcome:
        """Switch; nothing is awaited in it."""
        before = self._front.serve(generation)
        entry = self._ledger.entry_of(generation)
        if entry is not None:
            entry.state = "available"
        self._ledger.error = None
        previous = self._lost if before is None else before.target
        self._lost = None
        if previous is not None and not attempt.back:
            self._past.append(previous)
        if before is not None:
            self._leave(before)
        self._note_version(generation.target.version)
        target, shown = generation.target, None if previous is None else previous.shown
        self._ledger.emit(
            Switched(
                uri=target.shown,
                load_id=generation.load_id,
                version=target.version,
                previous=shown,
            )
        )
        swapped = Swapped(target.shown, target.version, shown, attempt.superseded)
        return _Outcome(swapped, None if self._is_kept(before) else before)

    def _note_version(self, version: int | None) -> None:
        if version is not None and self._keep.order([version]):
            self.newest = version if self.newest is None else max(self.newest, version)

    async def _give_up(self, attempt: _Attempt, error: BaseException) -> None:
        """Undo what a swap has done that will not switch, and tell why."""
        await self._drop(attempt.entry, error)
        if not attempt.overtaken:
            if self._lost is not None:
                await self._restore(error)
            elif self._front.current is None and not attempt.more:
                self._front.refuse(describe(error))
        attempt.fail(error)

    async def _drop(self, entry: Entry, error: BaseException) -> None:
        generation = entry.generation
        self._ledger.end(entry, error)
        if generation is not None:
            await self._bringer.discard(generation)
        if isinstance(error, Exception):
            target, text = entry.target, describe(error)
            self._ledger.emit(
                SwapFailed(
                    uri=target.shown, load_id=entry.load_id, version=target.version, error=text
                )
            )

    async def _restore(self, error: BaseException) -> None:
        """Load again what was dropped to make room; if that fails too, the slot is empty."""
        async with self._turn:
            if self._lost is None or self._front.current is not None:
                return
            entry = self._ledger.begin(self._lost)
            try:
                generation = await self._bringer.bring(entry, "demand", check=False)
            except Exception as failure:  # noqa: BLE001 - noted: the swap's own error is raised
                self._ledger.end(entry, failure)
                note = (
                    f"{entry.target.shown}, which served before, could not be loaded again "
                    f"({describe(failure)}): the slot is empty"
                )
                self._front.refuse(note)
                error.add_note(note)
                _logger.warning("%s", note)
                return
            entry.state = "available"
            self._front.serve(generation)
            self._lost = None
            error.add_note(f"{entry.target.shown} was loaded again, and serves")

    # --- what is not served any more -------------------------------------------------------

    def _leave(self, before: Generation) -> None:
        """Keep what served before, if the policy says so, or retire it."""
        if before.target.version is not None:
            replaced = self._front.others.pop(before.target.version, None)
            if replaced is not None:
                self._retire(replaced)
            self._front.others[before.target.version] = before
            self._thin_out()
        if not self._is_kept(before):
            self._retire(before)

    def _thin_out(self) -> None:
        current = self._front.current
        version = None if current is None else current.target.version
        others = self._front.others
        wanted = self._keep.beside(version, others)
        for number in [number for number in others if number not in wanted]:
            generation = others.pop(number)
            self._retire(generation)

    def _is_kept(self, generation: Generation | None) -> bool:
        if generation is None or generation.target.version is None:
            return False
        return self._front.others.get(generation.target.version) is generation

    def _loaded(self) -> set[int]:
        current = self._front.current
        version = None if current is None else current.target.version
        return {*self._front.others, *([] if version is None else [version])}

    def _retire(self, generation: Generation) -> None:
        entry = self._ledger.entry_of(generation)
        if entry is not None and entry.state != "unloading":
            entry.state = "unloading"
            self._start(self._bringer.retire, generation)

    async def _gone(self, before: Generation) -> None:
        """Wait until a model that was retired is dropped.

        Raises:
            LeaseTimeout: leases still hold it.
        """
        try:
            await before.unheld(self._lease_timeout)
        except LeaseTimeout as error:
            late = LeaseTimeout(
                f"{error.message} The new model serves; this one's memory is given back when the "
                "last lease of it ends.",
                uri=error.uri,
            )
            late.switched = True
            raise late from None
        await before.gone.wait()

    def _refuse_own_leases(self) -> None:
        task: asyncio.Task[Any] | None = asyncio.current_task()
        living = [entry.generation for entry in self._ledger.living]
        if any(lease.is_of(task) for each in living if each for lease in each.leases):
            raise RuntimeError(
                "a task that holds a lease cannot swap: the swap would wait for that lease. Leave "
                "the `async with slot.lease()` block first"
            )
