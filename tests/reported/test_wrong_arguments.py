"""What is passed in the wrong place, or of a wrong kind, is said before anything is asked."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

import keras
import numpy as np
import pytest
from safetensors.numpy import save_file

import asyncload
from asyncload import Limits

Call = Callable[[Any], Awaitable[Any]]


@pytest.fixture
def weights(tmp_path: Path) -> Path:
    save_file({"a": np.ones(2, np.float32)}, tmp_path / "w.safetensors")
    return tmp_path / "w.safetensors"


def decode(buffer: memoryview) -> dict[str, Any]:
    return {"size": np.array(len(buffer))}


async def parts(uris: Any) -> list[Any]:
    return [part async for part in asyncload.map_parts(decode, uris)]


LOAD: Any = asyncload.load
INTO: Any = asyncload.load_into


@pytest.mark.parametrize(
    ("call", "said"),
    [
        (lambda uri: LOAD(uri, custom_objects=["Block"]), "custom_objects is a mapping"),
        (lambda uri: LOAD(uri, storage_options="anonymous"), "storage_options is a mapping"),
        (lambda uri: LOAD(uri, limits={"nodes": 5}), "limits is asyncload.Limits"),
        (lambda uri: LOAD(uri, observer="print"), "observer is called with each event; a str"),
        (lambda uri: LOAD(uri, whole=True, signatures="s"), "leave out signatures=, or whole="),
        (lambda uri: INTO(uri, object()), "takes the target first, then a URI or path"),
        (lambda uri: asyncload.load_many(str(uri)), r"load_many\(\) takes several URIs, as a list"),
        (lambda uri: asyncload.load_many(uri), r"load_many\(\) takes several URIs, as a list"),
        (parts, r"map_parts\(\) takes several URIs, as a list"),
    ],
)  # fmt: skip
async def test_a_wrong_kind_is_a_type_error(weights: Path, call: Call, said: str) -> None:
    with pytest.raises(TypeError, match=said):
        await call(weights)


@pytest.mark.parametrize("wrong", [{"observer": 1}, {"limits": 5}, {"custom_objects": 5}])
def test_of_loaders_and_slots_too(wrong: dict[str, Any]) -> None:
    with pytest.raises(TypeError):
        asyncload.ModelSlot("m.keras", **wrong)


def test_observers_are_called() -> None:
    observer: Any = "print"
    with pytest.raises(TypeError, match="observer is called"):
        asyncload.Loader(observer=observer)
    with pytest.raises(TypeError, match="observer is called"):
        asyncload.set_observer(observer)


def test_limits_are_numbers() -> None:
    wrong: Any = "1MiB"
    with pytest.raises(TypeError, match="state is a number"):
        Limits(state=wrong)
    with pytest.raises(ValueError, match="nodes is 0 or more"):
        Limits(nodes=-1)


async def test_a_wrong_target_is_a_short_type_error(weights: Path) -> None:
    with pytest.raises(TypeError, match="Give load_into") as caught:
        await asyncload.load_into(object(), weights)
    assert len(caught.traceback) == 1


async def test_a_slot_is_entered_before_it_is_used(weights: Path) -> None:
    slot = asyncload.ModelSlot(weights)
    with pytest.raises(RuntimeError, match="async with ModelSlot"):
        await slot.run(len)
    with pytest.raises(RuntimeError, match="async with ModelSlot"):
        slot.lease()
    await slot.aclose()
    with pytest.raises(asyncload.ServingClosed):
        await slot.run(len)


async def test_one_signature_is_named_as_text(tmp_path: Path) -> None:
    model = keras.Sequential([keras.Input((2,)), keras.layers.Dense(1)])
    model.export(tmp_path / "m", verbose=False)
    served = await asyncload.load(tmp_path / "m", signatures="serving_default")
    assert list(served) == ["serving_default"]
    with pytest.raises(asyncload.FormatError, match="has no signature 'other'"):
        await asyncload.load(tmp_path / "m", signatures="other")


async def test_memory_is_named_by_uri_too(weights: Path) -> None:
    uri = asyncload.sources.put_memory("memory://given/w.safetensors", weights.read_bytes())
    assert uri == "memory://given/w.safetensors"
    assert (await asyncload.load_weights(uri))["a"].tolist() == [1.0, 1.0]
    asyncload.sources.forget_memory(uri)
    with pytest.raises(asyncload.NotFound):
        await asyncload.load_weights(uri)


async def test_the_home_folder_is_written_out() -> None:
    with pytest.raises(asyncload.NotFound, match="expanduser"):
        await asyncload.load("~/m.keras")


def test_without_a_loop_sync_is_named() -> None:
    with pytest.raises(RuntimeError, match=r"asyncload\.sync"):
        asyncload.prefetch("m.keras")


def test_the_module_is_the_command() -> None:
    call = [sys.executable, "-m", "asyncload", "--help"]
    done = subprocess.run(call, capture_output=True, text=True, check=True)
    assert "inspect" in done.stdout
