"""`ModelSlot`: a place for one model, leased to whoever answers, swapped while it serves."""

from __future__ import annotations

import asyncio
import functools
import logging
import os
from collections.abc import AsyncGenerator, Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from typing import Any, Literal, Self, TypeVar

import anyio

from asyncload.closing import Closing
from asyncload.errors import (
    LeaseTimeout,
    NotFound,
    ServingClosed,
    ServingError,
    SwapSuperseded,
)
from asyncload.events import Observer
from asyncload.forks import Origin
from asyncload.loader._brief import brief
from asyncload.loader._default import default_loader
from asyncload.loader._loader import Loader
from asyncload.loader._options import ModelOptions, Priority
from asyncload.loader._takes import takes
from asyncload.redaction import shown
from asyncload.workers import await_turn, to_its_end

from ._bring import Bringer, Check
from ._front import Front
from ._lease import LEASE_TIMEOUT, Lease, Target, holders
from ._ledger import Ledger, SlotStatus, Swapped, VersionStatus, describe
from ._opening import Opening
from ._spare import Spare
from ._swaps import SwapPolicy, Swaps
from ._versions import Base, VersionPolicy, latest, specific
from ._watch import Watch

__all__ = ["ModelSlot"]

URI = str | os.PathLike[str]
Result = TypeVar("Result")

_INTERVAL = 5.0  # seconds between looks for newer versions
_LIMIT = 300.0  # seconds between tries that fail, at most

_logger = logging.getLogger("asyncload")


@dataclass(frozen=True, slots=True, kw_only=True)
class SlotOptions(ModelOptions):
    # What `ModelSlot` takes.
    uri: URI = field(kw_only=False, repr=False)
    loader: Loader | None = None
    policy: SwapPolicy = "availability"
    version_policy: Literal["latest"] | int | VersionPolicy = "latest"
    marker: str | None = None
    check: Check | None = None
    lease_timeout: float | None = LEASE_TIMEOUT
    spare: bool = True
    wait: bool = True
    threads: int | None = None
    observer: Observer | None = None


_ENTER_FIRST = "enter the slot first: async with ModelSlot(...) as slot"


class ModelSlot(Closing):
    """A place for one model, which is leased to whoever answers, and swapped while it serves.

    Use it as an async context manager: entering loads the model, leaving waits for its leases and
    drops it. Its methods belong to the loop's thread; what is done with a leased model may run in
    any::

        async with asyncload.ModelSlot("s3://models/resnet/", warmup=True) as slot:
            async with slot.lease() as model:
                answer = await asyncio.to_thread(model.predict, x)
            answer = await slot.run(lambda model: model.predict(x))  # the same, cancelled or not
            await slot.swap("s3://models/resnet/8")

    A model is the slot's own: whoever keeps it beyond the lease, in a variable or in a thread that
    still runs, finds its values gone or replaced.

    Args:
        uri: of one model, as `Loader.load` takes it; or a folder of versions, ``1/``, ``2/`` and so
            on, each with a SavedModel or one file of a model in it. Folders on HTTP servers
            cannot be listed, and so have no versions.
        loader: loads; by default that of the running loop.
        policy: how a swap goes. ``"availability"``: the new model is loaded beside the old one,
            which serves until then; memory for two is needed. ``"resource"``: new leases wait, the
            old model is dropped when its last lease has ended, then the new one is loaded. If that
            fails, the old one is loaded again, and leases get it; if that fails too, the slot is
            empty, and leases raise `SlotEmpty`.
        version_policy: which versions are wanted: ``"latest"``, a number, or what `latest` and
            `specific` of ``asyncload.serving`` make. All that are wanted are loaded; the newest
            serves.
        marker: name of a file that a version's folder has once it is whole.
        check: called with each new model before it serves, an async function; whatever it raises
            keeps the old model. Calls of the model belong into a thread, as anywhere else.
        lease_timeout: seconds that a swap, or leaving the slot, waits for leases of the old model;
            ``None`` for as long as they last.
        spare: whether the model that was retired last is kept without its values, for the next: one
            that differs in its values only takes its place, and nothing is built or traced for it.
        wait: whether entering waits until a model serves, and raises if none can be loaded.
            Otherwise it is loaded in the background, and leases wait for it.
        threads: how many calls of `run` go on at once; others wait. By default as many as
            `ThreadPoolExecutor` has. They are the slot's own, and when they wake they let the
            loop's thread end its turn first (SCHED_BATCH, where there is that).
        observer: called with the slot's events (`Switched`, `Retired`, `SwapFailed`), on the loop's
            thread; the Loader's own observer gets those of loads.
        custom_objects, compile, and so on: for each load, as `Loader.load` takes them;
            ``warmup=True`` is a good one.

    Raises:
        ValueError: the options contradict each other.
    """

    @takes(SlotOptions)
    def __init__(self, options: SlotOptions) -> None:
        self._uri = os.fsdecode(options.uri)
        self._versions = _version_policy(options.version_policy)
        _check(options, self._versions)
        self._loader = options.loader
        self._spare = Spare(keep=options.spare)
        self._threads = ThreadPoolExecutor(
            options.threads, thread_name_prefix="asyncload-run", initializer=await_turn
        )
        self._options = options
        self._ledger = Ledger(options.observer)
        self._front = Front(shown(self._uri))
        self._swaps: Swaps | None = None
        self._base: Base | None = None
        self._host: asyncio.Task[None] | None = None
        self._closing = asyncio.Event()
        self._origin = Origin("this slot")
        self._begun = asyncio.Event()  # the first load has ended, well or not
        self._watched = False

    # --- its life ------------------------------------------------------------------------

    @brief
    async def __aenter__(self) -> Self:
        if self._host is not None:
            raise RuntimeError("a ModelSlot is entered once; make another")
        opened: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._loader = self._loader or default_loader()
        self._host = asyncio.create_task(self._live(opened, self._loader), name="asyncload-slot")
        try:
            await asyncio.wait([opened, self._host], return_when=asyncio.FIRST_COMPLETED)
            if self._options.wait:
                await self._load_first()
        except BaseException:
            await self.aclose()
            raise
        return self

    async def aclose(self) -> None:
        """Give no more leases, wait for those that are held, and drop the models.

        A swap under way ends with `ServingClosed`. Leases that outlast ``lease_timeout`` are
        logged, and keep their model until they end. Closing twice is fine.
        """
        if self._host is None or self._host.done():
            self._front.close()
            return
        if not self._origin.is_here:
            return
        with anyio.CancelScope(shield=True):
            if not self._closing.is_set() and self._swaps is not None:
                await self._await_leases(self._swaps)
            self._closing.set()
            await asyncio.wait([self._host])

    async def _await_leases(self, swaps: Swaps) -> None:
        own = asyncio.current_task()
        waits = [
            generation.unheld(self._options.lease_timeout)
            for generation in swaps.drop_all()
            # Whoever closes cannot wait for itself.
            if not any(lease.is_of(own) for lease in generation.leases)
        ]
        for outcome in await asyncio.gather(*waits, return_exceptions=True):
            if isinstance(outcome, LeaseTimeout):
                _logger.warning("a slot was closed while a model of it %s", outcome.message)

    async def _live(self, opened: asyncio.Future[None], loader: Loader) -> None:
        """Hold the tasks of the slot; ends when it is closed, or when the loop cancels it."""
        try:
            async with anyio.create_task_group() as group:
                bringer = Bringer(
                    loader,
                    self._options,
                    check=self._options.check,
                    spare=self._spare,
                    ledger=self._ledger,
                )
                self._swaps = Swaps(
                    self._front,
                    bringer,
                    self._ledger,
                    policy=self._options.policy,
                    keep=self._versions,
                    lease_timeout=self._options.lease_timeout,
                    start=group.start_soon,
                )
                if not self._options.wait:
                    group.start_soon(self._load_first_quietly)
                opened.set_result(None)
                await self._closing.wait()
                group.cancel_scope.cancel()
        finally:
            self._closing.set()
            self._begun.set()
            self._front.close()
            self._spare.take()
            self._threads.shutdown(wait=False)  # calls that outlast their slot go on

    async def _load_first_quietly(self) -> None:
        try:
            await self._load_first()
        except SwapSuperseded:
            pass  # the caller has chosen another
        except Exception as error:  # noqa: BLE001 - noted; a swap or a watch may do better
            why = self._ledger.error = describe(error)
            _logger.warning("a slot could not load its first model: %s", why)
            if self._front.current is None and self.status.swapping_to is None:
                self._front.refuse(why)
        finally:
            self._begun.set()

    async def _load_first(self) -> None:
        opening = self._opening(self._opened())
        self._base = await opening.base()
        await (opening.load_one() if self._base is None else opening.load_versions())

    def _opening(self, swaps: Swaps) -> Opening:
        base = Base(
            self._uri,
            self._loader or default_loader(),
            marker=self._options.marker,
            storage_options=self._options.storage_options,
        )
        return Opening(self._uri, base, self._versions, swaps)

    # --- leases ----------------------------------------------------------------------------

    def lease(self, version: int | None = None) -> Lease:
        """Return a lease, for one ``async with`` block, which gives the model.

        The model is neither swapped, changed nor dropped within the block. While there is none
        because it is loaded, or makes room for the next, entering the block waits. A lease costs
        about a microsecond; take one for each request. It belongs to the loop's thread; call the
        model in another one, and stay in the block until that has ended. `run` does both.

        Args:
            version: one of those that are loaded; by default what serves.

        Raises:
            SlotEmpty: on entering: there is no such model, and none is on its way.
            ServingClosed: on entering: the slot was closed.
            RuntimeError: the slot was never entered.
            Forked: the slot belongs to the process that this one was forked from.
        """
        self._origin.check(self._front_name)
        if self._host is None and not self._front.closed:
            raise RuntimeError(_ENTER_FIRST)  # nobody loads: the lease would wait for ever
        return Lease(self._front, version)

    async def run(self, function: Callable[..., Result], *args: Any) -> Result:
        """Lease the model, and call ``function(model, *args)`` in a thread of the slot.

        The lease lasts until the function has ended. So it does where the caller is cancelled,
        as web frameworks do to a request whose client has gone: the thread cannot be
        stopped, and must not find its model replaced.

        Args:
            function: called in the caller's context, in one of ``threads``.
            args: its arguments after the model.

        Raises:
            SlotEmpty, ServingClosed, Forked: as `lease`.
            Exception: what the function raised.
        """
        async with self.lease() as model:
            call = functools.partial(function, model, *args)
            del model
            return await to_its_end(call, self._threads)

    # --- swaps -----------------------------------------------------------------------------

    @brief
    async def swap(self, to: URI | int, *, priority: Priority = "background") -> Swapped:
        """Bring another model, and serve it.

        It is loaded, checked, warmed up (``warmup=``), approved of (``check=``), and then given
        to every new lease at once; the old one is dropped when its last lease has ended, for
        which this waits. Until then the old one serves, or nothing does, as ``policy`` says. What
        fails leaves the slot as it was.

        Of two swaps at once the later wins, and says so in its result; the earlier raises.
        Cancelling a swap that has not switched leaves the old model.

        Args:
            to: a URI, or the number of a version.
            priority: ``"background"``: what answers meanwhile goes first, so that it may take long
                (see ``Loader(max_stall_ms=)``); ``"demand"``: the new model is needed now. A slot
                that has no model to answer with is in a hurry anyway.

        Returns:
            What was swapped, and whose place that took.

        Raises:
            SwapRefused: the check refused it.
            SwapSuperseded: a later swap took this one's place.
            LeaseTimeout: leases of the old model outlast ``lease_timeout``. With
                ``"availability"`` the new one serves, and `LeaseTimeout.switched` is true.
            ServingClosed: the slot is, or was, closed.
            Exception: as `Loader.load`.
        """
        swaps = self._opened()
        if not isinstance(to, int):
            uri = os.fsdecode(to)
            version = None if self._base is None else self._base.version_of(uri)
            return await swaps.run(Target(uri, version), priority=priority)
        return await swaps.run(await self._version(to), priority=priority)

    @brief
    async def rollback(self) -> Swapped:
        """Swap back to what served before; again, to what served before that, and so on.

        It is immediate where the version policy has kept that model loaded, and on demand where it
        has not: what serves is not wanted. A `watch` does not undo it: that switches to versions
        alone that are newer than all that have served.

        Raises:
            ServingError: nothing served before.
            Exception: as `swap`.
        """
        return await self._opened().back()

    async def watch(
        self, *, interval: float = _INTERVAL, limit: float = _LIMIT
    ) -> AsyncGenerator[int, None]:
        """Follow the newest version: look for one, swap to it, and yield its number.

        A version is switched to once two looks, ``interval`` apart, have found it whole and the
        same: its marker there, if the slot has one, and all of its files, with the same sizes and
        times of change. Whatever fails is logged, stands in `versions` and `status`, and is tried
        again, after twice as long each time. The iteration ends when the slot is closed.

        Args:
            interval: seconds between looks.
            limit: seconds between tries that fail, at most.

        Raises:
            ServingError: the slot's URI is that of one model, or is watched already.
            LoaderClosed: the Loader was closed.
        """
        swaps = self._opened()
        if not self._options.wait:
            await self._begun.wait()  # or the two would take each other's place
        if self._closing.is_set():
            return
        if self._base is None:
            self._base = await self._opening(swaps).base()
        if self._base is None:
            raise ServingError(
                "is one model, and no folder of versions (1/, 2/, ...) to watch",
                uri=self._front_name,
            )
        if self._watched:
            raise ServingError("is watched already", uri=self._front_name)
        watch = Watch(
            self._base,
            self._versions,
            swaps.run,
            self._ledger,
            interval=interval,
            limit=limit,
            served=lambda: swaps.newest,
            closing=self._closing,
        )
        self._watched = True
        try:
            async for version in watch.follow():
                yield version
        finally:
            self._watched = False

    # --- what is said of it ----------------------------------------------------------------

    @property
    def versions(self) -> tuple[VersionStatus, ...]:
        """What became of each model that was to be loaded, the last 16 that ended included."""
        return self._ledger.statuses(self._front.current)

    @property
    def status(self) -> SlotStatus:
        """The slot at this moment."""
        current = self._front.current
        target = None if current is None else current.target
        loaded = [each.generation for each in self._ledger.living if each.generation is not None]
        return SlotStatus(
            ready=current is not None,
            uri=None if target is None else target.shown,
            version=None if target is None else target.version,
            leases=sum(len(each.leases) for each in loaded),
            swapping_to=None if self._swaps is None else self._swaps.under_way,
            error=self._ledger.error,
            closed=self._front.closed,
        )

    # --- the rest --------------------------------------------------------------------------

    @property
    def _front_name(self) -> str:
        return shown(self._uri).rstrip("/")

    async def _version(self, version: int) -> Target:
        if self._base is None:
            raise ServingError(
                f"is one model, and has no version {version}; name a URI", uri=self._front_name
            )
        found = await self._base.versions()
        if version not in found:
            raise NotFound(
                f"has no version {version}; it has {sorted(found) or 'none'}", uri=self._front_name
            )
        return await self._base.find(self._base.target(version, found[version]))

    def _opened(self) -> Swaps:
        self._origin.check(self._front_name)
        if self._closing.is_set() or self._front.closed:
            raise ServingClosed("this slot was closed; make a new one", uri=self._front_name)
        if self._swaps is None:
            raise RuntimeError(_ENTER_FIRST)
        return self._swaps

    def __repr__(self) -> str:
        serving = self.status.uri or "nothing"
        held = [lease for entry in self._ledger.living if entry.generation
                for lease in entry.generation.leases]  # fmt: skip
        by = f", leased by {holders(held)}" if held else ""
        return f"<ModelSlot of {self._front_name}: {serving}{by}>"


def _check(options: SlotOptions, versions: VersionPolicy) -> None:
    if options.policy not in ("availability", "resource"):
        raise ValueError(f"policy is 'availability' or 'resource', not {options.policy!r}")
    if options.policy == "resource" and versions.count > 1:
        raise ValueError("policy='resource' keeps one model at a time; want one version")
    if options.threads is not None and options.threads < 1:
        raise ValueError(f"threads must be 1 or more, not {options.threads}")


def _version_policy(given: Literal["latest"] | int | VersionPolicy) -> VersionPolicy:
    if isinstance(given, VersionPolicy):
        return given
    if given == "latest":
        return latest()
    if isinstance(given, int):
        return specific(given)
    raise ValueError(f"version_policy is 'latest', a number, or latest(n), not {given!r}")
