"""What a config may name."""

from __future__ import annotations

import contextlib
from collections.abc import Callable
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from asyncload.errors import AsyncloadError, Corrupt, FormatError, Unsafe
from asyncload.materialize._trust import Examination

URI = "model.keras"


def nobody(name: str) -> Any:
    return None


def check_config(config: Any, own: Callable[[str], Any], *, uri: str) -> None:
    examination = Examination(own, uri)
    examination.look_at(config)
    examination.conclude()


def only(known: str) -> Callable[[str], Any]:
    return lambda name: check_config if name == known else None


def layer(class_name: str, module: str | None = "keras.layers", **config: Any) -> dict[str, Any]:
    return {"class_name": class_name, "module": module, "config": config, "registered_name": None}


def model(*layers: dict[str, Any]) -> dict[str, Any]:
    return layer("Sequential", "keras", layers=list(layers))


def test_parts_of_keras_pass() -> None:
    dense = layer("Dense", units=3, kernel_initializer=layer("Zeros", "keras.initializers"))
    functional = layer("Functional", "keras.src.models.functional", layers=[dense])
    check_config(model(dense, functional), nobody, uri=URI)


@pytest.mark.parametrize(
    ("node", "says"),
    [
        (
            layer("Lambda", function={"class_name": "__lambda__", "config": {"value": "x"}}),
            "lambda",
        ),
        (layer("Lambda", function=["base64", None, None], function_type="lambda"), "Lambda"),
        (layer("TorchModuleWrapper", module="x"), "PyTorch"),
        (layer("TFSMLayer", filepath="/x"), "SavedModel"),
        (layer("StringLookup", vocabulary="/etc/passwd"), "/etc/passwd"),
        (layer("TextVectorization", vocabulary="https://example.org/x"), "example.org"),
        (layer("get_file", "keras.utils"), "keras.utils.get_file"),
        (layer("enable_unsafe_deserialization", "keras.config"), "keras.config"),
        (layer("load_model", "keras.saving"), "keras.saving.load_model"),
        (layer("clear_session", "keras.utils"), "keras.utils"),
    ],
)
def test_what_runs_code_or_reaches_files_is_refused(node: dict[str, Any], says: str) -> None:
    with pytest.raises(Unsafe, match=says) as caught:
        check_config(model(layer("Flatten"), node), nobody, uri=URI)
    assert "safe_mode=False" in str(caught.value)
    assert caught.value.uri == URI


def test_unknown_classes_are_all_named_with_the_remedy() -> None:
    first = {**layer("Mine", "my.module"), "registered_name": "my>Mine"}
    with pytest.raises(FormatError) as caught:
        check_config(model(first, layer("Other", None)), nobody, uri=URI)
    message = str(caught.value)
    assert "my.module.Mine" in message
    assert "Other" in message
    assert "custom_objects=" in message


def test_registered_classes_pass_by_the_name_that_keras_looks_up() -> None:
    node = {**layer("Mine", "my.module"), "registered_name": "my>Mine"}
    check_config(model(node), only("my>Mine"), uri=URI)
    with pytest.raises(FormatError, match=r"custom_objects=\{'my>Mine': Mine\}"):
        check_config(model(node), only("Mine"), uri=URI)


def test_a_lambda_layer_with_a_registered_function_passes() -> None:
    function = {"class_name": "function", "module": "builtins", "config": "mine"}
    check_config(model(layer("Lambda", function=function)), only("mine"), uri=URI)


def test_nesting_without_end_is_corrupt() -> None:
    config: Any = {}
    for _ in range(10_000):
        config = {"config": config}
    with pytest.raises(Corrupt, match="nested"):
        check_config(config, nobody, uri=URI)


json = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text(max_size=8),
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.dictionaries(st.sampled_from(["class_name", "config", "module", "x"]), inner)
    ),
    max_leaves=12,
)


@given(json)
def test_any_json_is_judged_without_another_error(config: Any) -> None:
    with contextlib.suppress(AsyncloadError):
        check_config(config, nobody, uri=URI)
