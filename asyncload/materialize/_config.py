"""The JSON in which Keras describes a model; imports no TensorFlow."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

from asyncload.errors import Corrupt

from ._turn import rest_in_turn

__all__ = ["parse_config", "parse_object"]


def parse_config(text: bytes, name: str, uri: str) -> Mapping[str, Any]:
    """Parse the config of a model.

    Args:
        text: JSON.
        name: of the document, for messages.
        uri: for messages.

    Raises:
        Corrupt: it is no JSON object with a ``class_name``.
    """
    config = parse_object(text, name, uri)
    if "class_name" not in config:
        raise Corrupt(
            f"{name} does not describe a model: expected an object with a class_name, found "
            f"{', '.join(map(repr, list(config)[:5])) or 'nothing'}",
            uri=uri,
        )
    return config


def parse_object(text: bytes, name: str, uri: str) -> Mapping[str, Any]:
    """Parse a JSON object; arguments as those of `parse_config`.

    Raises:
        Corrupt: it is something else.
    """
    try:
        # Without a hook, the parser holds the GIL from end to end, 10 ms for a large model; Python
        # code that it calls is where the interpreter lets other threads in, and where to rest.
        config = json.loads(text, object_hook=_as_it_is)
    except (ValueError, RecursionError) as error:
        raise Corrupt(f"{name} is no valid JSON: {error}", uri=uri) from error
    if not isinstance(config, dict):
        raise Corrupt(f"{name} is a JSON {type(config).__name__}; expected an object", uri=uri)
    return config


def _as_it_is(parsed: dict[str, Any]) -> dict[str, Any]:
    rest_in_turn()
    return parsed
