"""What is not installed with asyncload itself."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from asyncload.errors import NotInstalled

__all__ = ["wanting_tensorflow"]


@contextmanager
def wanting_tensorflow(uri: str) -> Iterator[None]:
    """Say how to install TensorFlow and Keras, if the block imports what is not there.

    Raises:
        NotInstalled: it did.
    """
    try:
        yield
    except ModuleNotFoundError as error:
        if error.name not in ("tensorflow", "keras"):
            raise
        raise NotInstalled(
            f"needs {error.name}, which is not installed: pip install 'asyncload[tensorflow]'. "
            "load_weights() reads the tensors alone, and does without.",
            uri=uri,
        ) from error
