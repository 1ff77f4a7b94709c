"""`Flow`: the steps of one load, side by side, within bounds."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence

import numpy as np

from asyncload import codecs
from asyncload.errors import about
from asyncload.interfaces import Manners, Reader, WorkerPool
from asyncload.manifest import Chunked, FileEntry, Strings, TensorEntry
from asyncload.memory import ArenaPool, SharedSlab, SlabPool, slab_size

from ._compound import Compound
from ._decode import decode_pieces
from ._prepare import Array, Prepared, as_array, prepare
from ._scope import run_together
from .plan import TENSORS, Job

__all__ = ["Flow", "Ready"]

_LARGE = 4 << 20  # bytes; what is larger is given back off the loop's thread

Ready = Callable[[TensorEntry, Array], None]


class Flow:
    """Reads and decodes tensors once.

    Args:
        readers: what ``entry.file`` refers to.
        workers: where encoded tensors are decoded.
        slabs: shared memory for them.
        arenas: memory for the tensors; ``None`` for memory from the system.
        ready: called on the loop's thread with each tensor as it completes.
        verify: whether to compare the checksums that entries have, before that.
        manners: how it behaves beside other loads.
    """

    def __init__(
        self,
        readers: Sequence[Reader],
        workers: WorkerPool,
        slabs: SlabPool,
        arenas: ArenaPool | None,
        ready: Ready,
        *,
        verify: bool,
        manners: Manners,
    ) -> None:
        self._readers = readers
        self._workers = workers
        self._slabs = slabs
        self._arenas = arenas
        self._ready = ready
        self._verify = verify
        self._manners = manners
        self._homes: dict[str, SharedSlab] = {}
        self._prepared: Prepared

    async def run(self, entries: Sequence[TensorEntry], files: Sequence[FileEntry]) -> None:
        """Read ``entries``; when it raises, all memory that was not handed over is free."""
        prepared = await self._workers.run_in_thread(
            prepare, entries, files, self._arenas, self._verify
        )
        self._prepared = prepared
        try:
            for entry in prepared.empty:
                self._hand_over(entry.name)
            await self._fill()
            await self._open_homes()
            worth = max((self._readers[s.file].parallel for s in prepared.steps), default=0)
            readers = min(worth, len(prepared.steps))
            # While one job of a worker's is decoded, the next one's bytes are read.
            decoders = min(2 * self._workers.processes, len(prepared.jobs))
            await run_together([self._read] * readers + [self._decode] * decoders)
        finally:
            prepared.clear()
            while self._homes:
                self._homes.popitem()[1].close()

    # --- raw tensors, and what is made of them -----------------------------------------

    async def _read(self) -> None:
        steps = self._prepared.steps
        while steps:
            await self._manners.pause()
            if not steps:
                return
            step = steps.pop()
            reader = self._readers[step.file]
            await reader.read_into(step.offset, step.buffers)
            if step.checked:
                with about(reader.uri):
                    await self._workers.run_in_thread(self._prepared.checksums.check, step.checked)
            await self._arrived(step.names)

    async def _arrived(self, names: Iterable[str]) -> None:
        for name in self._whole(names):
            compound = self._prepared.compounds.get(name)
            if compound is None:
                self._hand_over(name)
            elif any(self._whole([compound.entry.name])):
                await self._compose(compound)

    def _whole(self, names: Iterable[str]) -> Iterator[str]:
        """Yield those of ``names`` that wait for nothing more than what came just now."""
        missing = self._prepared.missing
        for name in names:
            missing[name] -= 1
            if not missing[name]:
                yield name

    async def _compose(self, compound: Compound) -> None:
        """Make a tensor of its parts, and hand it over."""
        entry, views = compound.entry, self._prepared.views
        stored = [views.pop(part.name) for part in compound.parts]
        with about(self._readers[entry.file].uri):
            if isinstance(entry.encoding, Strings):
                array = await self._workers.run_in_thread(
                    codecs.decode_strings, entry, stored[0], self._verify
                )
                self._ready(entry, array)
                return
            if compound.places is None:
                await self._workers.run_in_thread(
                    codecs.put_together, entry, stored, views[entry.name]
                )
        del stored
        self._hand_over(entry.name)

    def _hand_over(self, name: str) -> None:
        """Hand over a tensor that is whole, and keep no hold on its memory."""
        prepared = self._prepared
        entry = prepared.entries[name]
        prepared.views.pop(name, None)
        home = self._homes.pop(name, None)
        if home is None:
            array = prepared.arrays.pop(name)
        else:
            array = as_array(entry, home.view[: entry.nbytes])
            home.close()
        self._ready(entry, array)

    # --- encoded tensors ---------------------------------------------------------------

    async def _fill(self) -> None:
        """Make the tensors that have no stored bytes."""
        fills = self._prepared.fills
        for start in range(0, len(fills), TENSORS):
            some = fills[start : start + TENSORS]
            views = [self._prepared.views[entry.name] for entry in some]
            await self._workers.run_in_thread(_fill_all, some, views)
            del views
            for entry in some:
                self._hand_over(entry.name)

    async def _open_homes(self) -> None:
        """Get the slabs that are to be homes; their pages are made as they are written."""
        for job in self._prepared.jobs:
            if job.home is None or job.home in self._homes:
                continue
            slab = self._homes[job.home] = SharedSlab(job.decoded)
            piece = job.pieces[0].piece
            encoding = piece.entry.encoding
            if not piece.covered and isinstance(encoding, Chunked) and any(encoding.fill):
                view = slab.view[: piece.decoded]
                await self._workers.run_in_thread(_fill_all, [piece.entry], [view])

    async def _decode(self) -> None:
        jobs = self._prepared.jobs
        while jobs:
            await self._manners.pause()
            if not jobs:
                return
            job = jobs.pop()
            need = slab_size(job.stored) + (0 if job.home else slab_size(job.decoded))
            async with self._slabs.budget.take(need, self._manners.urgency):
                with about(self._readers[job.file].uri):
                    await self._decode_one(job)
            await self._arrived(placed.name for placed in job.pieces)

    async def _decode_one(self, job: Job) -> None:
        leased = [self._slabs.lease(max(job.stored, 1))]
        try:
            if job.home is None:
                leased.append(self._slabs.lease(job.decoded))
            source = leased[0]
            target = self._homes[job.home] if job.home else leased[1]
            await self._load(job, source)
            orders = tuple(
                (p.piece.entry, p.spans, p.at, not p.piece.covered and job.home is None)
                for p in job.pieces
            )
            await self._workers.run(
                decode_pieces,
                source.handle,
                target.handle,
                orders,
                polite=self._manners.polite(),
            )
            if job.home is None:
                await self._copy_out(job, target)
        except BaseException:
            # A worker or a thread may still be busy with them.
            for slab in leased:
                self._slabs.discard(slab)
            raise
        for slab in leased:
            await self._give_back(slab)

    async def _load(self, job: Job, source: SharedSlab) -> None:
        reader = self._readers[job.file]
        for load in job.loads:
            await reader.read_into(load.offset, [source.view[load.at : load.at + load.length]])

    async def _copy_out(self, job: Job, target: SharedSlab) -> None:
        pairs = []
        for placed in job.pieces:
            start, nbytes = placed.piece.at, placed.piece.decoded
            view = self._prepared.views[placed.name][start : start + nbytes]
            pairs.append((target.view[placed.at : placed.at + nbytes], view))
        await self._workers.run_in_thread(_copy, pairs)

    async def _give_back(self, slab: SharedSlab) -> None:
        if slab.handle.reusable or slab.nbytes <= _LARGE:
            self._slabs.give_back(slab)
        else:
            await self._workers.run_in_thread(slab.close)


def _fill_all(entries: Sequence[TensorEntry], views: Sequence[memoryview]) -> None:
    for entry, view in zip(entries, views, strict=True):
        codecs.fill(entry, view)


def _copy(pairs: Sequence[tuple[memoryview, memoryview]]) -> None:
    for source, target in pairs:
        # NumPy lets other threads run meanwhile; assigning to a memoryview does not.
        np.copyto(np.frombuffer(target, np.uint8), np.frombuffer(source, np.uint8))
