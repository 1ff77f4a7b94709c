"""Functions are documented where they are used, and name themselves when they are called wrongly.

That type checkers refuse what is wrong is checked with mypy: a ``type: ignore`` that hides no error
is one.
"""

from __future__ import annotations

import inspect
import pydoc
import subprocess
import sys
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from safetensors.numpy import save_file

import asyncload

FUNCTIONS = (
    "load", "prefetch", "load_many", "load_into", "load_weights", "inspect", "stream", "map_parts",
    "ls", "fetch",
)  # fmt: skip
ROOMS = ("errors", "events", "interfaces", "manifest", "report", "serving", "sources")
OF_EACH_LOAD = {
    "custom_objects", "compile", "safe_mode", "signatures", "whole", "trusted", "verify", "warmup",
    "storage_options", "on_change",
}  # fmt: skip


def parameters(function: Callable[..., Any]) -> Mapping[str, inspect.Parameter]:
    return inspect.signature(function).parameters


@pytest.fixture
def weights(tmp_path: Path) -> Path:
    save_file({"a": np.ones(2, np.float32)}, tmp_path / "w.safetensors")
    return tmp_path / "w.safetensors"


@pytest.mark.parametrize("name", FUNCTIONS)
def test_a_function_takes_what_the_method_takes(name: str) -> None:
    function, method = getattr(asyncload, name), getattr(asyncload.Loader, name)
    own, of_method = parameters(function), parameters(method)
    assert list(own) == list(of_method)[1:]
    for each in own.values():
        assert each.kind is not inspect.Parameter.VAR_KEYWORD
        assert each.annotation is not inspect.Parameter.empty
        assert not isinstance(each.annotation, str)
        assert each.default == of_method[each.name].default
    assert function.__doc__ == method.__doc__
    assert inspect.iscoroutinefunction(function) == inspect.iscoroutinefunction(method)


def test_help_shows_options_with_defaults_and_types() -> None:
    shown = pydoc.plain(pydoc.render_doc(asyncload.load))
    for part in (
        "compile: bool = True",
        "reuse: Any = None",
        "priority: Literal['demand', 'background'] = 'demand'",
        "custom_objects: name -> class or function",
    ):
        assert part in shown
    for name in parameters(asyncload.load):
        assert f" {name}: " in str(asyncload.load.__doc__)
    for name in parameters(asyncload.load_into):
        assert name in str(asyncload.load_into.__doc__)


@pytest.mark.parametrize(
    "function",
    [asyncload.load, asyncload.prefetch, asyncload.load_many, asyncload.ModelSlot,
     asyncload.ModelCache],
)  # fmt: skip
def test_what_loads_takes_the_options_of_load(function: Callable[..., Any]) -> None:
    assert set(parameters(function)) >= OF_EACH_LOAD
    for name in OF_EACH_LOAD:
        assert parameters(function)[name].default == parameters(asyncload.load)[name].default


async def test_an_unknown_option_is_a_type_error_that_names_the_function(weights: Path) -> None:
    with pytest.raises(TypeError, match=r"load\(\) got .*'compil'.*Did you mean 'compile'"):
        await asyncload.load(weights, compil=False)  # type: ignore[call-arg]
    with pytest.raises(TypeError, match=r"prefetch\(\) got .*'compil'"):
        asyncload.prefetch(weights, compil=False)  # type: ignore[call-arg]
    with pytest.raises(TypeError, match=r"load_many\(\) got .*'reuse'"):
        await asyncload.load_many([weights], reuse=object())  # type: ignore[call-arg]
    with pytest.raises(TypeError, match=r"load_into\(\) got .*'compile'"):
        await asyncload.load_into({}, weights, compile=False)  # type: ignore[call-arg]
    with pytest.raises(TypeError, match=r"load_weights\(\) got .*'compile'"):
        await asyncload.load_weights(weights, compile=False)  # type: ignore[call-arg]
    with pytest.raises(TypeError, match=r"ModelCache\(\) got .*'max_byte'.*'max_bytes'"):
        asyncload.ModelCache(max_byte=1)  # type: ignore[call-arg]
    with pytest.raises(TypeError, match=r"load\(\) missing .*'uri'"):
        await asyncload.load()  # type: ignore[call-arg]


@pytest.mark.parametrize(
    "option", [{"signatures": ["serve"]}, {"signatures": []}, {"whole": True}, {"warmup": True}]
)
async def test_an_option_that_asks_for_what_a_file_has_not_is_one(
    weights: Path, option: dict[str, Any]
) -> None:
    name = next(iter(option))
    with pytest.raises(asyncload.NotApplicable, match=rf"{name}= of load\(\) is for") as caught:
        await asyncload.load(weights, **option)
    assert isinstance(caught.value, TypeError)
    assert isinstance(caught.value, asyncload.FormatError)


async def test_signatures_of_a_keras_file_are_refused_before_it_is_built(tmp_path: Path) -> None:
    (tmp_path / "m.keras").write_bytes(b"never read")
    with pytest.raises(
        asyncload.NotApplicable, match=r"signatures= of load\(\) is for SavedModels"
    ):
        await asyncload.load(tmp_path / "m.keras", signatures=["serve"])


@pytest.mark.parametrize(
    "option",
    [
        {"compile": False},
        {"safe_mode": False},
        {"trusted": True},
        {"verify": False},
        {"custom_objects": {"Mine": object}},
        {"warmup": False},
    ],
)
async def test_an_option_that_only_allows_something_fits_every_file(
    weights: Path, option: dict[str, Any]
) -> None:
    assert list(await asyncload.load(weights, **option)) == ["a"]
    many: list[Any] = await asyncload.load_many([weights, weights], **option)
    assert [list(each) for each in many] == [["a"], ["a"]]


def test_rooms_are_there_after_the_import_and_cost_it_nothing() -> None:
    code = (
        "import asyncload, sys; before = set(sys.modules)\n"
        f"for name in {ROOMS}: print(getattr(asyncload, name).__name__)\n"
        f"print(any(f'asyncload.{{name}}' in before for name in {ROOMS}))"
    )
    done = subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, text=True)
    assert done.stdout.split() == [*(f"asyncload.{room}" for room in ROOMS), "False"]
    assert set(ROOMS) <= set(dir(asyncload))
    # mypy would say if it did not know them.
    assert asyncload.errors.NotFound is asyncload.NotFound
    assert asyncload.events.Observer is asyncload.Observer
    assert asyncload.serving.latest.__name__ in asyncload.serving.__all__
    assert asyncload.report.Timeline.__name__ in asyncload.report.__all__
    assert asyncload.sources.put_memory.__name__ in asyncload.sources.__all__


def test_misspelt_names_are_errors() -> None:
    with pytest.raises(AttributeError, match="laod"):
        asyncload.laod  # type: ignore[attr-defined]  # noqa: B018


def test_completion_shows_public_names_alone() -> None:
    shown = {name for name in dir(asyncload) if not name.startswith("__")}
    assert shown == {*asyncload.__all__, *ROOMS, "sync"}
