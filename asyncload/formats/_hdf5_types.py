"""Which element types of HDF5 make tensors, and of what dtype."""

from __future__ import annotations

from typing import Any

import numpy as np
from h5py import h5a, h5t

from asyncload.errors import FormatError
from asyncload.manifest import numpy_dtype

__all__ = ["ElementType", "NoTensor", "Types"]

# (dtype's canonical name, bytes of an element, whether it has the other byte order)
ElementType = tuple[str, int, bool]

_KINDS = {
    h5t.STRING: "text",
    h5t.REFERENCE: "references to other objects",
    h5t.VLEN: "arrays of varying length",
    h5t.COMPOUND: "records of several fields",
    h5t.ARRAY: "arrays",
    h5t.TIME: "times",
    h5t.BITFIELD: "bit fields",
}
# Bytes; sign bit, exponent's position and size, mantissa's; exponent's bias.
_BFLOAT16 = (2, (15, 7, 8, 0, 7), 127)
_NATIVE = h5t.py_create(np.dtype(np.uint32)).get_order()


class NoTensor(FormatError):
    """A dataset's elements are none that a tensor has."""


class Types:
    """Resolves element types; files have few, which are resolved once.

    Args:
        uri: for messages.
    """

    def __init__(self, uri: str) -> None:
        self._uri = uri
        self._known: dict[bytes, ElementType] = {}

    def of(self, dataset: Any, name: str) -> ElementType:
        """Return the element type of a dataset (`h5py.h5d.DatasetID`).

        Raises:
            NoTensor: its elements are no numbers.
        """
        kind = dataset.get_type()
        if kind.get_class() == h5t.OPAQUE:
            return self._opaque(kind, dataset, name)
        code = kind.encode()
        known = self._known.get(code)
        if known is None:
            known = self._known[code] = self._resolve(kind, name)
        return known

    def _resolve(self, kind: Any, name: str) -> ElementType:
        number = kind
        if kind.get_class() == h5t.ENUM and kind.dtype != np.bool_:
            number = kind.get_super()
        if number.get_class() == h5t.FLOAT and _is_bfloat16(number):
            return "bfloat16", 2, number.get_order() != _NATIVE
        try:
            dtype = number.dtype
            # Where NumPy has only something wider, or in other bits, these differ.
            same = dtype.kind in "biufc" and h5t.py_create(dtype, logical=True).equal(number)
        except TypeError:
            same = False
        if not same:
            raise self._refusal(kind, name)
        return dtype.name, dtype.itemsize, not dtype.isnative

    def _opaque(self, kind: Any, dataset: Any, name: str) -> ElementType:
        """Return what Keras means by opaque elements: bfloat16, and other types of ml_dtypes."""
        size = kind.get_size()
        if kind.get_tag():
            raise self._refusal(kind, name)
        if not h5a.exists(dataset, b"dtype"):
            return f"V{size}", size, False
        named = _text(h5a.open(dataset, b"dtype"))
        try:
            dtype = numpy_dtype(named)
        except TypeError:
            dtype = None
        if dtype is None or dtype.itemsize != size or dtype.name != named or dtype.hasobject:
            raise NoTensor(
                f"has opaque elements of {size} bytes, which its attribute 'dtype' calls "
                f"{named!r}; expected the name of a number type of that size",
                uri=self._uri,
                tensor=name,
            )
        return named, size, False

    def _refusal(self, kind: Any, name: str) -> NoTensor:
        found = _KINDS.get(kind.get_class())
        if found is None:
            found = f"numbers of a type unknown to NumPy ({kind.get_size()} bytes each)"
        return NoTensor(
            f"its elements are {found}; expected numbers or booleans. Take the dataset out of the "
            "file, or read it with h5py.",
            uri=self._uri,
            tensor=name,
        )


def _is_bfloat16(kind: Any) -> bool:
    found = (kind.get_size(), kind.get_fields(), kind.get_ebias())
    return found == _BFLOAT16


def _text(attribute: Any) -> str:
    if attribute.shape != () or attribute.get_type().get_class() != h5t.STRING:
        return ""
    value = np.empty((), attribute.dtype)
    attribute.read(value)
    content = value.item()
    return content.decode(errors="replace") if isinstance(content, bytes) else str(content)
