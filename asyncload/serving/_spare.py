"""`Spare`: what becomes of a model that nobody uses any more."""

from __future__ import annotations

import sys
from typing import Any

import anyio

from asyncload.loader._pace import Pace
from asyncload.workers import in_own_thread

__all__ = ["Spare", "emptied"]


class Spare:
    """The model that was retired last: without its values, for the next version to take.

    Where that has the same architecture, nothing is built, and what was traced stays traced.

    Args:
        keep: whether there is one; otherwise models that are retired are only emptied.
    """

    def __init__(self, *, keep: bool) -> None:
        self._keep = keep
        self._model: Any = None

    def take(self) -> Any:
        """Return the model, which is the caller's now; ``None`` if there is none."""
        model, self._model = self._model, None
        return model

    def give_back(self, model: Any) -> None:
        """Keep a model that was taken, and is as it was."""
        if self._keep:
            self._model = model

    async def put(self, model: Any, pace: Pace) -> None:
        """Take the values of a model that nobody uses any more, and keep the rest of it."""
        with anyio.CancelScope(shield=True):
            if await emptied(model, pace):
                self.give_back(model)


async def emptied(model: Any, pace: Pace) -> bool:
    """Take a model's values from it, so that their memory is given back at once.

    Models refer to themselves: the garbage collector would come for one much later, and hold the
    loop up for as long as it looks at everything else.

    Args:
        model: which.
        pace: of the Loader that made it.

    Returns:
        Whether that could be done, so that the model can be used for another version.
    """
    if "tensorflow" not in sys.modules:  # it is no model, but weights
        return False

    def empty_it() -> bool:
        from asyncload.materialize.reuse import empty

        return empty(model)

    with pace.errand():
        return await in_own_thread(empty_it)
