"""`Pipeline`: reads and decodes at once, and hands tensors over as they complete."""

from __future__ import annotations

import asyncio
import functools
from collections.abc import AsyncGenerator, Callable, Collection, Iterable, Mapping

from asyncload.errors import AsyncloadError, DecodeError, FormatError, SourceChanged
from asyncload.interfaces import Manners, OpenFiles, WorkerPool
from asyncload.manifest import Manifest, TensorEntry
from asyncload.memory import STAGING, ArenaPool, SlabPool

from ._compound import compound_of, extra_bytes
from ._early import EarlyReads
from ._flow import Flow, Ready
from ._prepare import Array
from ._scope import end, run_together

__all__ = ["MANY", "Pipeline"]

MANY = 2_000  # tensors, for each of which the loop's thread has no time to do anything

_ON_DEMAND = Manners()


class Pipeline:
    """Reads the tensors of a manifest.

    Args:
        manifest: what there is.
        files: the open files that it refers to.
        workers: where encoded tensors are decoded.
        slabs: shared memory for them.
        arenas: memory for the tensors; by default from the system.
        names: the tensors wanted; by default all.
        on_tensor: called on the loop's thread with each tensor's entry as it completes.
        verify: compare the checksums (CRC32C) that entries have with the bytes, before a tensor
            is handed over.
        early: reads some of the tensors already; they are taken over from it.
        manners: how it behaves beside other loads.

    Raises:
        ValueError: the manifest has no tensor of such a name.
    """

    def __init__(
        self,
        manifest: Manifest,
        files: OpenFiles,
        *,
        workers: WorkerPool,
        slabs: SlabPool,
        arenas: ArenaPool | None = None,
        names: Collection[str] | None = None,
        on_tensor: Callable[[TensorEntry], None] | None = None,
        verify: bool = True,
        early: EarlyReads | None = None,
        manners: Manners = _ON_DEMAND,
    ) -> None:
        self._manifest = manifest
        self._files = files
        self._workers = workers
        self._slabs = slabs
        self._arenas = arenas
        self._on_tensor = on_tensor
        self._verify = verify
        self._early = early
        self._manners = manners
        self._wanted = _select(manifest, names)

    @property
    def tensors(self) -> int:
        """How many tensors it reads."""
        return len(self._wanted)

    @functools.cached_property  # the loop's thread asks more than once, of thousands of tensors
    def nbytes(self) -> int:
        """Bytes of the tensors that it reads, decoded."""
        return sum(entry.nbytes for entry in self._wanted.values())

    def measure(self) -> None:
        """Find out `nbytes` and `staging`, which takes a while if there are many tensors.

        Any thread may do this, before they are asked for.
        """
        _ = self.nbytes, self.staging

    @functools.cached_property
    def staging(self) -> int:
        """Bytes of memory that it uses at most, beside the tensors' own."""
        entries = [entry for entry in self._wanted.values() if entry.encoding is not None]
        compounds = [made for entry in entries if (made := compound_of(entry)) is not None]
        extra = sum(extra_bytes(made) for made in compounds)
        composed = {made.entry.name for made in compounds}
        encoded = [entry for entry in entries if entry.name not in composed]
        if not encoded:
            return extra
        needs = [entry.length + entry.nbytes for entry in encoded]
        # Slabs come in powers of two, and there are two of them for each job.
        return extra + min(2 * sum(needs) + (1 << 20), max(STAGING, 2 * max(needs)))

    async def run(self, *, check: bool = True) -> dict[str, Array]:
        """Read every tensor.

        Args:
            check: whether to look, at the end, if files changed meanwhile; otherwise call `check`.

        Returns:
            Name -> read-only array that begins at a multiple of 64 bytes, in the manifest's
            order. Arrays own their memory together: it is returned with the last of them.

        Raises:
            SourceChanged: a file is not, or no longer, the version that was indexed.
            TransferFailed: a read failed.
            Corrupt: a tensor's bytes do not have its checksum; names the tensor and its file.
            Corrupt, DecodeError: encoded bytes are damaged.
            WorkerCrashed: a worker died twice on the same bytes.
            MemoryLimitExceeded: the system has no memory left for it.
        """
        arrays: dict[str, Array] = {}

        def ready(entry: TensorEntry, array: Array) -> None:
            arrays[entry.name] = array
            self._announce(entry)

        early = self._early
        rest = [each for each in self._wanted.values() if early is None or not early.has(each)]
        await self._produce(rest, ready, early, check=check)
        if len(self._wanted) > MANY:
            return await self._workers.run_in_thread(_in_order, self._wanted, arrays)
        return _in_order(self._wanted, arrays)

    async def check(self) -> None:
        """Raise `SourceChanged` if a file is no longer the version that was indexed."""
        try:
            await self._check_files()
        except AsyncloadError as error:
            error.uri = error.uri or self._manifest.uri
            raise

    async def stream(self) -> AsyncGenerator[tuple[str, Array], None]:
        """Yield (name, read-only array) as tensors complete, in no set order.

        Whether the file changed meanwhile is known only at the end, where `SourceChanged` is
        raised. Leaving the iteration early stops the reads.

        Raises: as `run` does.
        """
        queue: asyncio.Queue[tuple[str, Array] | None] = asyncio.Queue()

        def ready(entry: TensorEntry, array: Array) -> None:
            self._announce(entry)
            queue.put_nowait((entry.name, array))

        task = asyncio.create_task(self._produce(self._wanted.values(), ready))
        task.add_done_callback(lambda _: queue.put_nowait(None))
        try:
            while (item := await queue.get()) is not None:
                yield item
            await task
        finally:
            await end(task)

    async def assets(self, names: Collection[str] | None = None) -> dict[str, bytes]:
        """Read the manifest's assets: small files such as vocabularies.

        Args:
            names: the ones wanted, by default all; those that there are not are left out.

        Raises: as `run` does.
        """
        listed = self._manifest.assets
        assets = {name: listed[name] for name in listed if names is None or name in names}
        if not assets:
            return {}
        arrays: dict[str, Array] = {}
        await self._produce(assets.values(), lambda e, array: arrays.update({e.name: array}))
        named = {name: arrays[entry.name] for name, entry in assets.items()}
        return await self._workers.run_in_thread(_to_bytes, named)

    def _announce(self, entry: TensorEntry) -> None:
        if self._on_tensor is not None:
            self._on_tensor(entry)

    # --- the flow ----------------------------------------------------------------------

    async def _produce(
        self,
        entries: Iterable[TensorEntry],
        ready: Ready,
        early: EarlyReads | None = None,
        *,
        check: bool = True,
    ) -> None:
        """Read ``entries``, and call ``ready`` with each on the loop's thread."""
        flow = Flow(
            self._files.readers,
            self._workers,
            self._slabs,
            self._arenas,
            ready,
            verify=self._verify,
            manners=self._manners,
        )
        try:
            self._expect_versions()
            reads = [functools.partial(flow.run, tuple(entries), self._manifest.files)]
            if early is not None:
                reads.append(functools.partial(early.finish, ready))
            await run_together(reads)
            if check:
                await self._check_files()
        except AsyncloadError as error:
            if isinstance(error, FormatError | DecodeError):
                await self._check_files(error)
            error.uri = error.uri or self._manifest.uri
            raise

    def _expect_versions(self) -> None:
        for reader, indexed in zip(self._files.readers, self._manifest.files, strict=False):
            if reader.version != indexed.version:
                raise SourceChanged("changed after it was indexed; load it again", uri=reader.uri)

    async def _check_files(self, error: Exception | None = None) -> None:
        """Raise `SourceChanged` if a file did change: it would explain ``error``."""
        for reader in self._files.readers:
            try:
                await reader.check()
            except SourceChanged as changed:
                raise changed from error or changed.__cause__


def _select(manifest: Manifest, names: Collection[str] | None) -> Mapping[str, TensorEntry]:
    if names is None:
        return manifest.tensors
    unknown = [name for name in names if name not in manifest.tensors]
    if unknown:
        raise ValueError(f"{manifest.uri} has no tensor named {', '.join(map(repr, unknown))}")
    wanted = set(names)
    return {name: entry for name, entry in manifest.tensors.items() if name in wanted}


def _in_order(wanted: Mapping[str, TensorEntry], arrays: Mapping[str, Array]) -> dict[str, Array]:
    return {name: arrays[entry.name] for name, entry in wanted.items()}


def _to_bytes(arrays: Mapping[str, Array]) -> dict[str, bytes]:
    return {name: array.tobytes() for name, array in arrays.items()}
