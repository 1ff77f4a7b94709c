"""The public surface: what ``__all__`` says is there, documented, and nothing else is."""

from __future__ import annotations

import ast
import importlib
import inspect
from pathlib import Path

import pytest

import asyncload

NAMES = (
    "load", "load_into", "load_weights", "inspect", "stream", "prefetch", "load_many", "map_parts",
    "aclose", "Loader", "Load", "Weights", "Manifest", "Progress", "AsyncloadError",
)  # fmt: skip


ROOT = Path(asyncload.__file__).parent


def all_modules() -> list[str]:
    files = (path.relative_to(ROOT.parent).with_suffix("") for path in ROOT.rglob("*.py"))
    return sorted(".".join(file.parts).removesuffix(".__init__") for file in files)


def test_the_promised_names_are_there() -> None:
    assert set(NAMES) <= set(asyncload.__all__)


def test_all_is_sorted_and_true() -> None:
    assert list(asyncload.__all__) == sorted(asyncload.__all__)
    for name in asyncload.__all__:
        assert getattr(asyncload, name).__name__ == name
    assert set(asyncload.__all__) <= set(dir(asyncload))


def test_type_checkers_see_the_same_names() -> None:
    """What is imported for type checkers, what is looked up lazily, and ``__all__`` agree."""
    tree = ast.parse(Path(asyncload.__file__).read_text())
    block = next(node for node in tree.body if isinstance(node, ast.If))
    typed = {
        alias.name: node.module
        for node in block.body
        if isinstance(node, ast.ImportFrom) and node.module
        for alias in node.names
    }
    assert set(typed) == set(asyncload.__all__)
    assert typed == asyncload._HOME_OF


def test_an_unknown_name_is_an_attribute_error() -> None:
    with pytest.raises(AttributeError, match="no_such_name"):
        _ = asyncload.no_such_name  # type: ignore[attr-defined]  # type checkers see it, too


@pytest.mark.parametrize("dotted", all_modules())
def test_modules_say_what_they_export(dotted: str) -> None:
    module = importlib.import_module(dotted)
    assert module.__doc__
    for name in getattr(module, "__all__", ()):
        assert hasattr(module, name), f"{dotted}.__all__ names {name}"


@pytest.mark.parametrize("name", asyncload.__all__)
def test_every_public_name_is_documented(name: str) -> None:
    thing = getattr(asyncload, name)
    assert undocumented(name, thing) == []


def undocumented(name: str, thing: object) -> list[str]:
    lacking = [] if own_doc(thing) else [name]
    if inspect.isclass(thing):
        for member, value in vars(thing).items():
            function = (
                value.fget if isinstance(value, property) else getattr(value, "__func__", value)
            )
            if (
                not member.startswith("_")
                and inspect.isfunction(function)
                and not own_doc(function)
            ):
                lacking.append(f"{name}.{member}")
    return lacking


def own_doc(thing: object) -> str | None:
    """Return a docstring that is written down, not inherited nor made up by a dataclass."""
    doc = getattr(thing, "__doc__", None)
    made_up = doc is not None and doc.startswith(f"{getattr(thing, '__name__', '')}(")
    return None if made_up else doc
