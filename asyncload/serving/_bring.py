"""Loading for a slot: a model is loaded, checked, and retired when nobody holds it any more."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import Any

from asyncload.errors import SwapRefused
from asyncload.events import Retired
from asyncload.loader._load import Load
from asyncload.loader._loader import Loader
from asyncload.loader._options import ModelOptions, Priority

from ._lease import Generation, Target
from ._ledger import Entry, Ledger, describe
from ._spare import Spare

__all__ = ["Bringer", "Check", "begin"]

Check = Callable[[Any], Awaitable[object]]


def begin(
    loader: Loader,
    target: Target,
    options: ModelOptions,
    priority: Priority,
    *,
    reuse: Any = None,
) -> Load[Any]:
    """Begin to load a model that will be the slot's or the cache's own, to be emptied some day.

    So nobody else may be given the same object.
    """
    return loader.prefetch(
        target.uri, priority=priority, shared=False, reuse=reuse, **options.keywords()
    )


class Bringer:
    """Loads the models of one slot, and drops them.

    Args:
        loader: does it.
        options: of each load.
        check: called with each new model; what it raises refuses the model.
        spare: where models go that nobody uses any more, for the next ones.
        ledger: where it is noted.
    """

    def __init__(
        self,
        loader: Loader,
        options: ModelOptions,
        *,
        check: Check | None,
        spare: Spare,
        ledger: Ledger,
    ) -> None:
        self._loader = loader
        self._options = options
        self._check = check
        self._spare = spare
        self._ledger = ledger

    async def look(self, entry: Entry) -> None:
        """Read the index of what is to be loaded, and none of its tensors.

        Raises: as `Loader.inspect` does.
        """
        storage = self._options.storage_options
        await self._loader.inspect(entry.target.uri, storage_options=storage)

    async def bring(self, entry: Entry, priority: Priority, *, check: bool = True) -> Generation:
        """Load a model, and have it checked.

        Args:
            entry: says what; its line in the ledger is kept up.
            priority: of the load.
            check: whether the caller's own check is asked.

        Raises:
            SwapRefused: the check raised.
            Exception: as `Loader.load` does.
        """
        entry.state = "loading"
        entry.generation = generation = await self._load(entry, priority)
        if check and self._check is not None:
            try:
                await self._check(generation.model)
            except Exception as error:
                raise SwapRefused(
                    f"was refused by the slot's check ({describe(error)}); what served before "
                    "goes on serving",
                    uri=entry.target.shown,
                ) from error
        return generation

    async def _load(self, entry: Entry, priority: Priority) -> Generation:
        spare, target = self._spare.take(), entry.target
        load = begin(self._loader, target, self._options, priority, reuse=spare)
        entry.load_id = load.reports.load_id
        retained = load.retain()
        try:
            # Patiently: another model serves meanwhile, and its answers go first. If none does,
            # the priority says so. And to the end: nothing may change the spare any more.
            model = await load.settled(patiently=True)
        except BaseException:
            retained.release()
            self._spare.give_back(spare)
            raise
        nbytes = load.progress.bytes_total or 0
        return Generation(model, target, nbytes, retained, load_id=entry.load_id)

    async def discard(self, generation: Generation) -> None:
        """Drop a model that nobody holds."""
        model, generation.model = generation.model, None
        try:
            if model is not None:
                await self._spare.put(model, self._loader.pace)
        finally:
            generation.retained.release()

    async def retire(self, generation: Generation) -> None:
        """Drop a model once its last lease has ended."""
        entry = self._ledger.entry_of(generation)
        if entry is not None:
            entry.state = "unloading"
        try:
            await generation.unheld()
            await self.discard(generation)
        finally:
            generation.retained.release()  # even if the slot ends before its leases do
            generation.gone.set()
        if entry is not None:
            self._ledger.end(entry)
        target = generation.target
        self._ledger.emit(
            Retired(
                uri=target.shown,
                load_id=generation.load_id,
                version=target.version,
                nbytes=generation.nbytes,
            )
        )
