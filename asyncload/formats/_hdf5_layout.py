"""Where the elements of one HDF5 dataset lie, and how they are stored."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from typing import Any

import numpy as np
from h5py import h5d, h5s, h5z

from asyncload.errors import Corrupt, TooLarge, Unsafe
from asyncload.interfaces import Bounds
from asyncload.manifest import numpy_dtype

from ._hdf5_rows import RawChunk, RawEncoding, RawFilter, Row, pack_chunks
from ._hdf5_types import ElementType, NoTensor, Types
from ._shape import array_bytes

__all__ = ["Layouts"]

_LZF = 32000  # its number in the HDF Group's registry of filters
_SAFE_FILTERS = frozenset({h5z.FILTER_DEFLATE, h5z.FILTER_SHUFFLE, h5z.FILTER_FLETCHER32, _LZF})

_INLINE_LIMIT = 4 << 10  # bytes of fill values that stand in the index as they are


class Layouts:
    """Makes rows of datasets, and keeps count of what they declare together.

    Args:
        length: of the HDF5 file, in bytes.
        userblock: bytes before its superblock.
        uri: for messages.
        bounds: what the file may declare.
        counted: what `counted` was, where others have been counted before.
    """

    def __init__(
        self,
        length: int,
        userblock: int,
        uri: str,
        bounds: Bounds,
        counted: tuple[int, int, int] = (0, 0, 0),
    ) -> None:
        self._length = length
        self._userblock = userblock
        self._uri = uri
        self._types = Types(uri)
        self._bounds = bounds
        self._again = False
        self._number, self._stored, self._decoded = counted

    @property
    def counted(self) -> tuple[int, int, int]:
        """How many datasets there were so far, and the bytes that they declare: stored, decoded."""
        return self._number, self._stored, self._decoded

    def row(self, dataset: Any, name: str, *, again: bool = False) -> Row:
        """Return the row of a dataset (`h5py.h5d.DatasetID`).

        Args:
            dataset: open.
            name: its path.
            again: whether it was counted before, by another name.

        Raises:
            NoTensor: its type or shape makes no tensor.
            Corrupt, Unsafe, TooLarge: as `index_hdf5` does.
        """
        self._again = again
        self._number += 1
        self._bounds.check_tensors(self._number, self._uri)
        element = self._types.of(dataset, name)
        shape = dataset.shape
        if shape is None:
            raise NoTensor(
                "is empty in HDF5's sense: it has a type but no shape (h5py.Empty). Take it out of "
                "the file.",
                uri=self._uri,
                tensor=name,
            )
        try:
            nbytes = array_bytes(shape, element[1])
        except ValueError as error:
            raise TooLarge(f"declares {error}", uri=self._uri, tensor=name) from error
        offset = dataset.get_offset()
        # HDF5 adds the user block to "no offset", so that it looks like one.
        if offset is None or self._userblock:
            return self._other_row(dataset, name, element, shape, nbytes)
        return self._raw_row(dataset, name, element, shape, nbytes)

    def _raw_row(
        self, dataset: Any, name: str, element: ElementType, shape: tuple[int, ...], nbytes: int
    ) -> Row:
        offset, length = dataset.get_offset(), dataset.get_storage_size()
        if length != nbytes:
            raise Corrupt(
                f"its shape {shape} of {element[0]} takes {nbytes} bytes, but {length} are stored",
                uri=self._uri,
                tensor=name,
            )
        self._count(name, [(offset, length)], nbytes, encoded=False)
        encoding: RawEncoding | None = ("reorder", True) if element[2] else None
        return name, element[0], shape, offset, length, encoding

    def _other_row(
        self, dataset: Any, name: str, element: ElementType, shape: tuple[int, ...], nbytes: int
    ) -> Row:
        """Return the row of what is not, or may not be, contiguous."""
        plist = dataset.get_create_plist()
        layout = plist.get_layout()
        self._refuse_unsafe(plist, layout, name)
        dtype = element[0]
        if not nbytes:
            return name, dtype, shape, 0, 0, ("inline", b"")
        if layout == h5d.COMPACT:
            data = self._compact(dataset, name, element, nbytes)
            return name, dtype, shape, 0, 0, ("inline", data)
        if not dataset.get_storage_size():
            return self._unstored_row(plist, name, element, shape, nbytes)
        if layout == h5d.CONTIGUOUS:
            return self._raw_row(dataset, name, element, shape, nbytes)
        return self._chunked_row(dataset, plist, name, element, shape, nbytes)

    def _refuse_unsafe(self, plist: Any, layout: int, name: str) -> None:
        reason = None
        if layout == h5d.VIRTUAL:
            reason = "is a virtual dataset, made of parts of others"
        elif plist.get_external_count():
            reason = "keeps its bytes in another file"
        if reason is not None:
            raise Unsafe(
                f"{reason}; only bytes of the file itself are read. Copy the dataset with h5py.",
                uri=self._uri,
                tensor=name,
            )

    def _compact(self, dataset: Any, name: str, element: ElementType, nbytes: int) -> bytes:
        """Return the bytes of a dataset that HDF5 keeps among its metadata (64 KiB at most)."""
        if nbytes > dataset.get_storage_size():
            raise Corrupt(f"takes {nbytes} bytes, but fewer are stored", uri=self._uri, tensor=name)
        data = np.empty(nbytes, np.uint8)
        # In the file's own type, so that HDF5 converts nothing.
        dataset.read(h5s.ALL, h5s.ALL, data, dataset.get_type())
        return _native(data.tobytes(), element)

    def _unstored_row(
        self, plist: Any, name: str, element: ElementType, shape: tuple[int, ...], nbytes: int
    ) -> Row:
        """Return the row of a dataset of which nothing was ever written."""
        fill = _fill_value(plist, element)
        self._count(name, [], nbytes, encoded=True)
        if nbytes <= _INLINE_LIMIT:
            data = (fill or bytes(element[1])) * math.prod(shape)
            return name, element[0], shape, 0, 0, ("inline", data)
        return name, element[0], shape, 0, 0, ("chunked", shape, (), b"", fill, False)

    def _chunked_row(
        self,
        dataset: Any,
        plist: Any,
        name: str,
        element: ElementType,
        shape: tuple[int, ...],
        nbytes: int,
    ) -> Row:
        dtype, itemsize, swap = element
        chunk = plist.get_chunk()
        chunk_bytes = math.prod(chunk) * itemsize
        filters = self._filters(plist, name, itemsize)
        chunks = tuple(_stored_chunks(dataset))
        self._check_chunks(name, chunks, chunk, shape)
        spans = [(offset, length) for _, offset, length, _ in chunks]
        self._count(name, spans, max(nbytes, len(chunks) * chunk_bytes), encoded=True)
        if not filters and any(length != chunk_bytes for _, length in spans):
            raise Corrupt(
                f"its chunks are of {chunk_bytes} bytes, but others are stored",
                uri=self._uri,
                tensor=name,
            )
        offset, length = min(spans)[0], sum(length for _, length in spans)
        if not filters and len(chunks) == 1 and chunk == shape:
            encoding: RawEncoding | None = ("reorder", True) if swap else None
        else:
            fill = _fill_value(plist, element)
            encoding = ("chunked", chunk, filters, pack_chunks(chunks), fill, swap)
        return name, dtype, shape, offset, length, encoding

    def _filters(self, plist: Any, name: str, itemsize: int) -> tuple[RawFilter, ...]:
        found = [plist.get_filter(index) for index in range(plist.get_nfilters())]
        for number, _, values, label in found:
            if number not in _SAFE_FILTERS:
                raise Unsafe(
                    f"is stored through filter {number} ({label.decode(errors='replace')}), which "
                    "is not known to be safe with untrusted data; use gzip, shuffle, fletcher32 or "
                    "lzf.",
                    uri=self._uri,
                    tensor=name,
                )
            # The others' parameters are for writing: a level, or sizes that the chunks say, too.
            if number == h5z.FILTER_SHUFFLE and tuple(values) != (itemsize,):
                raise Corrupt(
                    f"its shuffle filter has the parameters {tuple(values)[:4]}; expected "
                    f"{itemsize}, the bytes of an element. The file is damaged; copy or save it "
                    "again.",
                    uri=self._uri,
                    tensor=name,
                )
        return tuple((number, tuple(values)) for number, _, values, _ in found)

    def _check_chunks(
        self, name: str, chunks: Sequence[RawChunk], chunk: tuple[int, ...], shape: tuple[int, ...]
    ) -> None:
        origins = {origin for origin, _, _, _ in chunks}
        fits = all(
            all(
                0 <= at < size and at % step == 0
                for at, size, step in zip(origin, shape, chunk, strict=True)
            )
            for origin in origins
        )
        if not fits or len(origins) != len(chunks):
            raise Corrupt(
                f"has chunks that lie twice or out of place in its shape {shape}",
                uri=self._uri,
                tensor=name,
            )

    def _count(
        self, name: str, spans: Sequence[tuple[int, int]], decoded: int, *, encoded: bool
    ) -> None:
        """Take what a dataset declares into account.

        Raises:
            Corrupt: it lies beyond the end of the file.
            TooLarge: all of them together declare more than the file holds.
        """
        for offset, length in spans:
            if offset < 0 or length < 0 or offset + length > self._length:
                raise Corrupt(
                    f"lies at bytes {offset} to {offset + length} of a file of {self._length}; it "
                    "was truncated or damaged. Write or copy it again.",
                    uri=self._uri,
                    tensor=name,
                )
            # By another name, the bytes are the same ones, and the memory is not.
            self._stored += 0 if self._again else length
        self._decoded += decoded if encoded or self._again else 0
        if self._stored > self._length:
            raise TooLarge(
                f"the datasets so far declare {self._stored:,} stored bytes in a file of "
                f"{self._length:,}, so that some overlap: refused as a bomb. Write the file again, "
                "with h5py or h5repack.",
                uri=self._uri,
                tensor=name,
            )
        self._bounds.check_ratio(self._decoded, self._stored, self._uri, name)


def _stored_chunks(dataset: Any) -> Iterable[RawChunk]:
    found: list[Any] = []
    if hasattr(dataset, "chunk_iter"):
        dataset.chunk_iter(found.append)
    else:  # an HDF5 before 1.12.3, where this takes time quadratic in their number
        found = [dataset.get_chunk_info(index) for index in range(dataset.get_num_chunks())]
    for info in found:
        yield info.chunk_offset, info.byte_offset, info.size, info.filter_mask


def _fill_value(plist: Any, element: ElementType) -> bytes:
    """Return one element as it is where nothing was stored; ``b""`` for zero.

    HDF5 leaves the caller's memory as it is if nothing is ever to be filled; h5py gives it zeros.
    """
    never = plist.get_fill_time() == h5d.FILL_TIME_NEVER
    if never or plist.fill_value_defined() != h5d.FILL_VALUE_USER_DEFINED:
        return b""
    value = np.zeros((), numpy_dtype(element[0]))
    plist.get_fill_value(value)
    data = value.tobytes()
    return data if any(data) else b""


def _native(data: bytes, element: ElementType) -> bytes:
    dtype, itemsize, swap = element
    if not swap or itemsize == 1:
        return data
    array = np.frombuffer(data, numpy_dtype(dtype))
    return array.byteswap().tobytes()
