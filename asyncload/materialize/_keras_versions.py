"""What is said of files that another Keras wrote, and of programs that use one."""

from __future__ import annotations

import json
import logging
import os
from collections.abc import Iterator
from contextlib import contextmanager

from asyncload.errors import FormatError, MismatchError

__all__ = ["METADATA", "explained", "notice_legacy_keras", "old_version"]

METADATA = "metadata.json"
_LEGACY = "TF_USE_LEGACY_KERAS"

_logger = logging.getLogger("asyncload")
_noticed: set[str] = set()


def old_version(metadata: bytes | None) -> str | None:
    """Return the version of Keras that wrote a ``.keras`` archive, if it is older than 3.

    Args:
        metadata: the archive's ``metadata.json``, which nothing but messages depends on.
    """
    try:
        version = json.loads(metadata or b"{}")["keras_version"]
        return str(version)[:20] if int(version.partition(".")[0]) < 3 else None
    except (ValueError, RecursionError, LookupError, TypeError, AttributeError):
        return None


@contextmanager
def explained(version: str | None) -> Iterator[None]:
    """Say in errors that an old Keras wrote the archive, and what to do.

    Args:
        version: as `old_version` returns it.
    """
    try:
        yield
    except (FormatError, MismatchError) as error:
        if version is not None:
            error.message += (
                f" The archive was written by Keras {version}, and Keras 3 does not read all "
                "of those. Load it with tf_keras (pip install tf_keras) and save it there as "
                "'name.h5', which Keras 3 reads more of; or take its values with load_weights()."
            )
        raise


def notice_legacy_keras() -> None:
    """Warn once where ``tf.keras`` is Keras 2: no model that is loaded here is one of those."""
    if os.environ.get(_LEGACY, "").lower() in {"1", "true"} and _LEGACY not in _noticed:
        _noticed.add(_LEGACY)
        _logger.warning(
            "%s is set, so that tf.keras is Keras 2 (tf_keras) in this program. asyncload builds "
            "models of Keras 3, which that does not know: use them with `import keras`, or unset "
            "the variable.",
            _LEGACY,
        )
