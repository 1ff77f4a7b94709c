"""What cannot be built the fast way is loaded by Keras itself."""

from __future__ import annotations

from typing import Any

import keras

from asyncload.errors import AsyncloadError, FormatError

from ._turn import summary

__all__ = ["load_stock"]


def load_stock(path: str, *, uri: str, **options: Any) -> Any:
    """Call ``keras.models.load_model``.

    Args:
        path: of the file.
        uri: for messages.
        options: as ``load_model`` takes them.

    Raises:
        FormatError: Keras cannot load it.
    """
    try:
        return keras.models.load_model(path, **options)
    except AsyncloadError:
        raise
    except Exception as error:
        raise FormatError(
            f"Keras {keras.__version__} cannot load this model: {summary(error)}. If it uses "
            "classes of your own, check their from_config and build; if it is about losses or "
            "metrics, pass compile=False; if it was saved by another version of Keras, load it "
            "with that one.",
            uri=uri,
        ) from error
