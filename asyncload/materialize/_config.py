"""The JSON in which Keras describes a model; imports no TensorFlow."""

from __future__ import annotations

import functools
import json
import re
from collections.abc import Mapping
from typing import Any

import numpy as np

from asyncload.errors import Corrupt, TooLarge
from asyncload.interfaces import Limits

from ._long_lists import LongList, long_lists, put_back
from ._turn import rest_in_turn

__all__ = ["parse_config", "parse_object"]

_COUNTED = 1 << 20  # bytes whose marks are counted at once
# Lists of what Keras calls once for each element; those of words and weights may have any length.
_NEVER_LONG = ("axes", "axis", "dims", "layers", "shape")
# Lists of any length in the configs of Keras' own classes; those of others may have them anywhere.
_LONG = frozenset(
    {
        "bin_boundaries",
        "boundaries",
        "idf_weights",
        "mean",
        "thresholds",
        "value",
        "values",
        "variance",
        "vocabulary",
    }
)
_DEPTH = 8  # of as many values as there may be, on average; in models of keras.applications, 6
_STEPS = np.zeros(256, np.int8)  # into and out of lists and objects
_STEPS[list(b"[{")], _STEPS[list(b"]}")] = 1, -1
_ELEMENT = 8  # bytes
# Numbers of which Keras makes lists as long, whatever a file stores.
_COUNTS = {
    "indices_or_sections": 100_000,
    "ngrams": 1_000,
    "num": 100_000,
    "num_classes": 1_000_000,
    "num_oov_indices": 1_000_000,
    "num_thresholds": 100_000,
    "pool_dimensions": 64,
    "rank": 1_000,
}
# What Keras matches with names of layers or variables, as regular expressions: keys, or elements.
# Python holds the GIL meanwhile, and some expressions take longer than anybody lives.
_PATTERNS = frozenset({"exclude_layers", "optimizer_map", "policy_map"})
_QUICK = re.compile(
    r"(?:[^\\*+?{(|]|\\[^0-9])*+(?:[*+?](?:[^\\*+?{(|]|\\[^0-9])*+){0,2}+", re.DOTALL
)
_PADDED = 1_000_000  # weights of words, of which a file may have none
# What Keras takes apart by regular expressions of its own, in time that grows with the square.
_EXPRESSIONS = ("equation", "pattern", "subscripts")
_EXPRESSION = 1_000  # characters
# Most objects have none of these.
_LOOKED_AT = frozenset({*_COUNTS, *_PATTERNS, *_EXPRESSIONS, "args", "pad_to_max_tokens"})


def parse_config(
    text: bytes, name: str, uri: str, limits: Limits | None = None
) -> Mapping[str, Any]:
    """Parse the config of a model.

    Args:
        text: JSON.
        name: of the document, for messages.
        uri: for messages.
        limits: what it may ask for; ``None`` for anything.

    Raises:
        Corrupt: it is no JSON object with a ``class_name``.
        TooLarge: it asks for more.
    """
    config = parse_object(text, name, uri, limits)
    if "class_name" not in config:
        raise Corrupt(
            f"{name} does not describe a model: expected an object with a class_name, found "
            f"{', '.join(map(repr, list(config)[:5])) or 'nothing'}",
            uri=uri,
        )
    return config


def parse_object(
    text: bytes, name: str, uri: str, limits: Limits | None = None
) -> Mapping[str, Any]:
    """Parse a JSON object; arguments as those of `parse_config`.

    Raises:
        Corrupt: it is something else.
        TooLarge: it has more in it than the limits say.
    """
    try:
        # Without a hook, the parser holds the GIL from end to end, 10 ms for a large model; Python
        # code that it calls is where the interpreter lets other threads in, and where to rest.
        if limits is not None:
            _check_nodes(text, b"[{", name, uri, limits)
        short, lists = long_lists(text)
        if limits is not None:
            _check_nodes(short, b"[{,", name, uri, limits)
            _check_depth(short, name, uri, limits)
        hook = functools.partial(_taken, lists, uri, limits)
        config = json.loads(short, object_hook=hook)
    except TooLarge:
        raise
    except (ValueError, RecursionError) as error:
        raise Corrupt(f"{name} is no valid JSON: {error}", uri=uri) from error
    if not isinstance(config, dict):
        raise Corrupt(f"{name} is a JSON {type(config).__name__}; expected an object", uri=uri)
    return config


def _check_nodes(text: bytes, marks: bytes, name: str, uri: str, limits: Limits) -> None:
    """Refuse more values than a model has; as many marks as divide them stand in the text."""
    nodes = 0
    for start in range(0, len(text), _COUNTED):
        nodes += sum(text.count(mark, start, start + _COUNTED) for mark in marks)
    if nodes > limits.nodes:
        raise TooLarge(
            f"{name} has {nodes:,} values, besides long lists of numbers and words; at most "
            f"{limits.nodes:,} are accepted. {limits.remedy(nodes=nodes)}",
            uri=uri,
        )


def _check_depth(text: bytes, name: str, uri: str, limits: Limits) -> None:
    """Refuse many values within many objects: Keras' errors hold a text of each of these whole."""
    total, depth = 0, 0
    for start in range(0, len(text), _COUNTED):
        signs = np.frombuffer(text, np.uint8, min(_COUNTED, len(text) - start), start)
        depths = depth + np.cumsum(_STEPS[signs], dtype=np.int64)
        total += int(depths[signs == ord(",")].sum())
        depth = int(depths[-1])
    if total > _DEPTH * limits.nodes:
        raise TooLarge(
            f"{name} has many values within lists and objects that are within others: the sum of "
            f"their depths is {total:,}; at most {_DEPTH * limits.nodes:,} is accepted. "
            f"{limits.remedy(nodes=total // _DEPTH + 1)}",
            uri=uri,
        )


def _taken(lists: list[LongList], uri: str, limits: Limits | None, parsed: dict[str, Any]) -> Any:
    rest_in_turn()
    if limits is not None:
        problem = _excess(parsed, lists) or _excess_of_classes(parsed, limits)
        if problem is not None:
            raise TooLarge(f"its config has {problem}. {Limits.LIFTED}", uri=uri)
    return put_back(parsed, lists) if lists else parsed


def _excess(parsed: dict[str, Any], lists: list[LongList]) -> str | None:
    """Say of what an object in a config has too many, if of anything."""
    if _LOOKED_AT.isdisjoint(parsed) and not lists:
        return None
    for key, most in _COUNTS.items():
        number = parsed.get(key)
        if isinstance(number, (int, float)) and number > most:
            return f"{key!r} of {number:,}; at most {most:,} are accepted"
    match parsed:
        case {"pad_to_max_tokens": True, "output_mode": "tf_idf", "max_tokens": int(number)}:
            if number > _PADDED:
                return f"'max_tokens' of {number:,} to pad to; at most {_PADDED:,} are accepted"
    return _excess_of_matching(parsed) or (_excess_of_lists(parsed) if lists else None)


def _excess_of_matching(parsed: dict[str, Any]) -> str | None:
    """Say which text would be matched, or which one be matched with, for too long, if any."""
    for key in _PATTERNS & parsed.keys():
        value = parsed[key]
        for each in value if isinstance(value, (dict, list)) else (value,):
            if isinstance(each, str) and not _QUICK.fullmatch(each):
                return (
                    f"{each[:80]!r} as {key!r}: a regular expression with groups, choices or more "
                    "than two repetitions may take for ever"
                )
    args = parsed.get("args")
    texts = [*map(parsed.get, _EXPRESSIONS), *(args if type(args) is list else ())]
    longest = max((len(text) for text in texts if isinstance(text, str)), default=0)
    if longest > _EXPRESSION:
        return f"an expression of {longest:,} characters; at most {_EXPRESSION:,} are accepted"
    return None


def _excess_of_classes(parsed: dict[str, Any], limits: Limits) -> str | None:
    """Say how large a metric's matrix of classes is, if it is too large: no file has it."""
    match parsed:
        case {"class_name": str(name), "config": {"num_classes": int(classes)}}:
            if name.endswith("IoU") and _ELEMENT * classes**2 > limits.state:
                nbytes = _ELEMENT * classes**2
                return f"{name} of {classes:,} classes, which takes {nbytes:,} bytes of variables"
    return None


def _excess_of_lists(parsed: dict[str, Any]) -> str | None:
    for key, value in parsed.items():
        if type(value) is LongList and key.endswith(_NEVER_LONG):
            return f"a list of {len(value):,} elements as {key!r}"
    inner = parsed.get("config")
    if isinstance(inner, dict) and str(parsed.get("module", "keras")).startswith("keras"):
        for key, value in inner.items():
            if type(value) is LongList and key not in _LONG:
                return f"a list of {len(value):,} elements as {key!r} of {parsed.get('class_name')}"
    return None
