"""`Resources`: what the loads of one Loader share."""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping
from concurrent.futures import Executor
from dataclasses import dataclass
from typing import Any

from asyncload.interfaces import Bounds, Source
from asyncload.memory import ArenaPool, Budget, SlabPool
from asyncload.sources import ObjectCache, Stores, open_source
from asyncload.workers import Workers

from ._index_cache import IndexCache
from ._pace import Pace
from ._recall import Work

__all__ = ["Resources"]


@dataclass(frozen=True, slots=True)
class Resources:
    """What the loads of one Loader share.

    Attributes:
        object_cache: where objects of stores are kept, if they are.
        spare_time: takes work to be done in a thread once a load is over.
        bounds: what a file may declare.
    """

    workers: Workers
    slabs: SlabPool
    arenas: ArenaPool
    budget: Budget
    builder: Executor
    index_cache: IndexCache | None
    stores: Stores
    object_cache: ObjectCache | None
    pace: Pace
    spare_time: Callable[[Work], None]
    bounds: Bounds

    def source(self, uri: str | os.PathLike[str], storage: Mapping[str, Any]) -> Source:
        """Return the source that a URI names, which reads with what is shared here.

        Args:
            uri: as `sources.open_source` takes it.
            storage: ``storage_options``.
        """
        return open_source(
            uri,
            threads=self.workers.threads,
            stores=self.stores,
            options=storage,
            cache=self.object_cache,
        )

    def urgency_changed(self) -> None:
        """Let in whoever became urgent enough."""
        self.budget.reconsider()
        self.slabs.budget.reconsider()
        self.pace.urgency_changed()

    async def aclose(self) -> None:
        """End workers, threads and connections, and give memory back."""
        await self.workers.aclose()
        await self.stores.aclose()
        self._close_the_rest()

    def abandon(self) -> None:
        """Do so when the loop is closed; any thread may."""
        self.workers.abandon()
        self.slabs.abandon()
        self.stores.abandon()
        self._close_the_rest()

    def _close_the_rest(self) -> None:
        if self.object_cache is not None:
            self.object_cache.close()
        self.slabs.close()
        self.arenas.close()
        # A model half built cannot be interrupted; its thread ends with it, unwaited for.
        self.builder.shutdown(wait=False, cancel_futures=True)
