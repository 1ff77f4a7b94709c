"""What whoever asks for a load has set in the thread that asks. Imports no TensorFlow."""

from __future__ import annotations

import sys
import threading
from collections.abc import Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager
from contextvars import ContextVar
from types import MappingProxyType
from typing import Any, Protocol

__all__ = ["Asking", "Scopes", "capture_scopes"]


class Scopes(Protocol):
    """Enters, on another thread, the scopes of whoever asked.

    Attributes:
        found: what is set in them, for comparison.
        reason: why only Keras and TensorFlow themselves can load in them, if that is so.
        place: the device, and the prefix of names, that variables get in them.
    """

    @property
    def found(self) -> Mapping[str, Any]:
        """See above."""
        ...

    @property
    def reason(self) -> str | None:
        """See above."""
        ...

    @property
    def place(self) -> tuple[str, str]:
        """See above."""
        ...

    def __call__(self) -> AbstractContextManager[None]:
        """Enter them until the block ends."""
        ...

    def again(self) -> Scopes:
        """Return the same for another load, as they were when they were captured."""
        ...

    def rewind(self) -> None:
        """Begin anew: what comes next gets the names and seeds that an attempt has used up."""
        ...

    def hand_back(self) -> None:
        """Set in the thread that was captured what the load left set, as stock would have."""
        ...


_asking: ContextVar[Asking | None] = ContextVar("asyncload_asking", default=None)


class Asking:
    """A thread that has another one ask for loads, and waits; made in the thread that waits."""

    def __init__(self) -> None:
        self._scopes = capture_scopes()
        self._given: list[Scopes] = []
        self._waits = True

    @contextmanager
    def begun(self) -> Iterator[None]:
        """Have loads that are asked for in this context, and copies of it, be this thread's."""
        token = _asking.set(self)
        try:
            yield
        finally:
            _asking.reset(token)

    @property
    def waits(self) -> bool:
        """Whether that thread still does."""
        return self._waits

    def scopes(self) -> Scopes:
        """Return what is set in the thread that waits, for one load."""
        self._given.append(self._scopes.again())
        return self._given[-1]

    def hand_back(self) -> None:
        """Set in the thread that waited what the loads left set; called in it, at the end."""
        self._waits = False
        for scopes in self._given:
            scopes.hand_back()


def capture_scopes() -> Scopes:
    """Return what is set in this thread, or in the thread that this one asks for."""
    asking = _asking.get()
    if asking is not None and asking.waits:
        return asking.scopes()
    if "keras" not in sys.modules and "tensorflow" not in sys.modules:
        return _Later()
    from ._private import CapturedScopes

    return CapturedScopes()


class _Later:
    """The scopes of a program that has not imported TensorFlow yet: none."""

    found: Mapping[str, Any] = MappingProxyType({})
    reason = None
    place = ("", "")

    def __init__(self) -> None:
        self._thread = threading.get_ident()
        self._scopes: Scopes | None = None

    def __call__(self) -> AbstractContextManager[None]:
        if self._scopes is None:
            from ._private import CapturedScopes

            self._scopes = CapturedScopes(nothing_of=self._thread)
        return self._scopes()

    def again(self) -> Scopes:
        made = _Later()
        made._thread = self._thread
        return made

    def rewind(self) -> None:
        if self._scopes is not None:
            self._scopes.rewind()

    def hand_back(self) -> None:
        if self._scopes is not None:
            self._scopes.hand_back()
