"""JSON whose long lists are parsed in pieces says what it says to `json`."""

from __future__ import annotations

import json
import random
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from asyncload.materialize import _long_lists
from asyncload.materialize._config import parse_object
from asyncload.materialize._long_lists import LongList, long_lists, put_back

MANY = 60_000
CASES: dict[str, Any] = {
    "words": [f"word {n}" for n in range(MANY * 2)],
    "words of other languages": ["é漢" * 5] * MANY,
    "quotes, commas and brackets": ['a"],[\\', "[", "\\", '"', "\n", ","] * MANY,
    "numbers": [random.Random(0).random() for _ in range(MANY * 2)],
    "integers": list(range(-MANY, MANY * 3)),
    "of all kinds": [1, -1.5e-8, "a", True, False, None] * MANY,
    "not numbers": [float("inf"), float("-inf"), 1.0] * MANY * 2,
    "a list at its end": ["x"] * MANY * 5 + [[1, 2]],
    "a list in the midst": ["x"] * MANY * 5 + [[1, 2]] + ["y"] * MANY * 5,
    "an object at its end": ["x"] * MANY * 5 + [{"a": 1}],
    "a long text among them": ["x"] * MANY * 5 + ["y" * 200_000] + ["z"] * MANY,
    "one long text": 'a\\"b' * 400_000,
    "lists of lists": [[n] * 50_000 for n in range(20)],
    "short lists": [["a", 1, [2.5]]] * 70_000,
}


@pytest.mark.parametrize("case", CASES)
@pytest.mark.parametrize("indent", [None, 1])
def test_the_same_as_at_once(case: str, indent: int | None) -> None:
    config = {"before": [1, {"x": "["}], "list": CASES[case], "after": {"y": []}}
    text = json.dumps(config, indent=indent).encode()
    assert len(text) > 1 << 20
    parsed = parse_object(text, "config.json", "m.keras")
    assert parsed == json.loads(text)
    assert json.dumps(parsed, indent=indent).encode() == text
    assert parse_object(json.dumps(config, ensure_ascii=False).encode(), "", "") == parsed


values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text('[]{}",:\\a é', max_size=40),
    lambda inner: (
        st.lists(inner, max_size=30)
        | st.lists(st.integers(0, 9), min_size=30)
        | st.dictionaries(st.text("ab[", max_size=2), inner, max_size=3)
    ),
    max_leaves=20,
)
damage = st.tuples(st.integers(0, 2000), st.sampled_from([b"", *map(bytes, zip(b'"[],\\{}:1'))]))


@given(values, st.lists(damage, max_size=2))
def test_the_same_value_or_the_same_refusal(value: Any, damages: list[tuple[int, bytes]]) -> None:
    text = bytearray(json.dumps({"a": value}).encode())
    for at, by in damages:
        text[at % len(text) : at % len(text) + 1] = by or b" "
    with pytest.MonkeyPatch.context() as patch:  # as if pieces were short
        patch.setattr(_long_lists, "_SHORT", 0)
        patch.setattr(_long_lists, "_PIECE", 32)
        try:
            expected = json.loads(bytes(text))
        except ValueError:
            with pytest.raises(ValueError):  # noqa: PT011 - json's own
                in_pieces(bytes(text))
        else:
            assert in_pieces(bytes(text)) == expected


def in_pieces(text: bytes) -> Any:
    short, lists = long_lists(text)
    return json.loads(short, object_hook=lambda parsed: put_back(parsed, lists))


def test_nothing_stands_for_a_list_that_is_not_there() -> None:
    lists = [LongList([1, 2])]
    for place in (1, -1, True, "0", None, 0.0):
        parsed = {"\0asyncload list": place}
        if place is None:
            assert put_back(parsed, lists) is parsed
            continue
        with pytest.raises(ValueError, match="a key is"):
            put_back(parsed, lists)


@pytest.mark.parametrize("case", ["words", "numbers", "integers", "of all kinds"])
def test_arrays_of_them_are_those_of_lists(case: str) -> None:
    elements = CASES[case]
    made, expected = np.array(LongList(elements)), np.array(elements)
    assert (made.dtype, made.shape) == (expected.dtype, expected.shape)
    assert np.array_equal(made, expected)


def test_they_are_shown_short() -> None:
    assert repr({"a": LongList(range(100_000))}) == "{'a': [... 100,000 elements ...]}"
