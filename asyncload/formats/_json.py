"""JSON objects from anywhere."""

from __future__ import annotations

import json
from typing import Any

from asyncload.errors import Corrupt

__all__ = ["parse_json"]


def parse_json(text: bytes, what: str, uri: str) -> dict[str, Any]:
    """Parse a JSON object, strictly: no key twice in any object, no lone surrogates in keys.

    Args:
        text: UTF-8.
        what: what the text is, for messages: ``"the header"``.
        uri: for messages.

    Raises:
        Corrupt: it is something else.
    """
    try:
        value = json.loads(text.decode(), object_pairs_hook=_object)
    except (ValueError, RecursionError) as error:
        raise Corrupt(
            f"{what} is no valid JSON: {error}. The file is damaged; copy or save it again.",
            uri=uri,
        ) from error
    if not isinstance(value, dict):
        raise Corrupt(f"{what} is a JSON {type(value).__name__}; expected an object", uri=uri)
    return value


def _object(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) != len(pairs):
        seen: set[str] = set()
        twice = next(key for key, _ in pairs if key in seen or seen.add(key))  # type: ignore[func-returns-value]
        raise ValueError(f"the key {twice!r} stands there twice")
    "".join(found).encode()  # a lone surrogate raises, as it would when the key is printed
    return found
