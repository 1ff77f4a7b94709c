"""`Retained`: memory of a result that stays counted after its load."""

from __future__ import annotations

from collections.abc import Iterable

from asyncload.memory import Budget, Kept

__all__ = ["Retained", "retain_for"]


class Retained:
    """The memory of a result, counted in the Loader's budget until `release`.

    Those who were given the same object share what is counted; it is given back with the last of
    them.
    """

    def __init__(self) -> None:
        self._kept: Kept | None = None
        self._owners: list[Retained] = []
        self._released = False

    @property
    def nbytes(self) -> int:
        """Bytes that are counted: 0 before the load has ended, and after `release`."""
        return 0 if self._kept is None else self._kept.nbytes

    def resize(self, nbytes: int) -> None:
        """Correct how many bytes they are, of all who share them.

        Raises:
            ValueError: it is negative, or nothing is counted.
        """
        if self._kept is None:
            raise ValueError("there is no memory to correct: it was released, or never had")
        self._kept.resize(nbytes)

    def release(self) -> None:
        """Count it no more, if nobody else shares it; releasing twice is fine."""
        self._released = True
        kept, self._kept = self._kept, None
        if kept is not None:
            self._owners.remove(self)
            if not self._owners:
                kept.release()

    def _adopt(self, kept: Kept, owners: list[Retained]) -> None:
        self._kept, self._owners = kept, owners


def retain_for(retained: Iterable[Retained], budget: Budget, nbytes: int) -> None:
    """Count the memory of a result for those who retain it, if there are any left.

    Args:
        retained: theirs.
        budget: where it counts.
        nbytes: of the result.
    """
    owners = [each for each in retained if not each._released]
    if owners:
        kept = budget.keep(nbytes)
        for each in owners:
            each._adopt(kept, owners)
