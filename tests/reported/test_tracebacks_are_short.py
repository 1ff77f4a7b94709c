"""A typed error is raised where the user awaits: its traceback is the user's own."""

from __future__ import annotations

import asyncio
import gc
import logging
import subprocess
import sys
import traceback
from collections.abc import Awaitable, Callable, Mapping
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pytest

import asyncload

LINES = 12
CHAINED = ("direct cause", "During handling")


async def text_of(call: Callable[[], Awaitable[Any]]) -> tuple[asyncload.AsyncloadError, list[str]]:
    try:
        await call()
    except asyncload.AsyncloadError as error:
        return error, "".join(traceback.format_exception(error)).splitlines()
    raise AssertionError("nothing was raised")


async def iterate(items: Any) -> None:
    async for _ in items:
        pass


async def enter(resource: Any) -> None:
    async with resource:
        pass


@pytest.mark.parametrize(
    "call",
    [
        asyncload.load,
        asyncload.load_weights,
        asyncload.inspect,
        asyncload.ls,
        asyncload.prefetch,
        lambda uri: asyncload.load_many([uri]),
        lambda uri: asyncload.load_into(object(), uri),
        lambda uri: asyncload.fetch(uri, uri.parent / "copy"),
        lambda uri: iterate(asyncload.stream(uri)),
        lambda uri: enter(asyncload.ModelSlot(uri)),
        lambda uri: enter(asyncload.ModelCache(max_bytes=1000).get(uri)),
    ],
)
async def test_a_wrong_path_takes_a_dozen_lines(
    call: Callable[[Path], Awaitable[Any]], tmp_path: Path
) -> None:
    error, lines = await text_of(lambda: call(tmp_path / "none.keras"))
    await asyncload.aclose()
    assert isinstance(error, asyncload.NotFound)
    assert len(lines) <= LINES
    assert not any(text in line for line in lines for text in CHAINED)
    own = str(Path(asyncload.__file__).parent)
    assert not any(own in line for line in lines)
    assert isinstance(error.__context__ or error, FileNotFoundError)


@pytest.mark.parametrize(
    "call",
    [asyncload.sync.load, asyncload.sync.inspect, lambda uri: list(asyncload.sync.stream(uri))],
)
def test_so_it_is_without_an_event_loop(call: Callable[[Path], Any], tmp_path: Path) -> None:
    try:
        with pytest.raises(asyncload.NotFound) as caught:
            call(tmp_path / "none.keras")
    finally:
        asyncload.sync.close()
    lines = "".join(traceback.format_exception(caught.value)).splitlines()
    assert len(lines) <= LINES
    assert not any(text in line for line in lines for text in CHAINED)
    assert not any(str(Path(asyncload.__file__).parent) in line for line in lines)


async def test_a_foreign_cause_is_kept_and_takes_one_block(tmp_path: Path) -> None:
    (tmp_path / "w.npz").write_bytes(b"PK\x03\x04 and no more")
    error, lines = await text_of(lambda: asyncload.load_weights(tmp_path / "w.npz"))
    await asyncload.aclose()
    assert error.__cause__ is not None
    assert lines.count("Traceback (most recent call last):") == 1
    assert len(lines) <= LINES


async def test_so_it_is_where_a_worker_found_out(tmp_path: Path) -> None:
    with h5py.File(tmp_path / "w.h5", "w") as file:
        file["a"] = np.zeros(100)
    whole = (tmp_path / "w.h5").read_bytes()
    (tmp_path / "w.h5").write_bytes(whole[:96] + b"\xff" * (len(whole) - 96))
    error, lines = await text_of(lambda: asyncload.load_weights(tmp_path / "w.h5"))
    await asyncload.aclose()
    assert isinstance(error, asyncload.FormatError)
    assert lines.count("Traceback (most recent call last):") == 1
    assert len(lines) <= LINES


async def test_what_happened_in_the_program_s_own_code_is_shown(tmp_path: Path) -> None:
    np.save(tmp_path / "w.npy", np.zeros(3))

    def decode(data: memoryview) -> Mapping[str, Any]:
        raise ArithmeticError("wrong sum")

    async with asyncload.Loader(executor="thread") as loader:
        async for part in loader.map_parts(decode, [tmp_path / "w.npy"]):
            text = "".join(traceback.format_exception(part.error))
    assert "in decode" in text

    async def check(model: Any) -> None:
        raise ArithmeticError("not this one")

    error, lines = await text_of(
        lambda: enter(asyncload.ModelSlot(tmp_path / "w.npy", check=check))
    )
    await asyncload.aclose()
    assert isinstance(error.__cause__, ArithmeticError)
    assert any("in check" in line for line in lines)


async def test_a_load_that_nobody_awaits_fails_in_few_lines(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    load = asyncload.prefetch(tmp_path / "none.keras")
    async for _ in load.events():
        pass
    del load, _
    await asyncio.sleep(0)
    gc.collect()
    (record,) = [each for each in caplog.records if "never retrieved" in each.message]
    assert record.exc_info is not None
    lines = "".join(traceback.format_exception(record.exc_info[1])).splitlines()
    assert len(lines) == 1


async def test_the_log_says_which_way_it_took(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    with caplog.at_level(logging.DEBUG, "asyncload"):
        await text_of(lambda: asyncload.load_weights(tmp_path / "none.npz"))
    await asyncload.aclose()
    assert "find_format" in caplog.text


@pytest.mark.parametrize("missing", ["tensorflow", "keras"])
def test_a_missing_package_is_named_with_the_extra(missing: str, tmp_path: Path) -> None:
    (tmp_path / "m").mkdir()
    (tmp_path / "m" / "saved_model.pb").write_bytes(b"\x08\x01")
    script = tmp_path / "program.py"
    script.write_text(
        "import asyncio, sys, asyncload\n"
        "class Missing:\n"
        "    def find_spec(self, name, path=None, target=None):\n"
        f"        if name == {missing!r}:\n"
        "            raise ModuleNotFoundError(f'No module named {name!r}', name=name)\n"
        "sys.meta_path.insert(0, Missing())\n"
        "async def main():\n"
        "    async with asyncload.Loader(executor='thread') as loader:\n"
        "        try:\n"
        "            await loader.load_into(object(), sys.argv[1])\n"
        "        except asyncload.NotInstalled as error:\n"
        "            print(isinstance(error, ModuleNotFoundError), error)\n"
        "asyncio.run(main())\n"
    )
    np.savez(tmp_path / "w.npz", a=np.zeros(3))
    done = subprocess.run(
        [sys.executable, str(script), str(tmp_path / "w.npz")],
        check=True, capture_output=True, text=True,
    )  # fmt: skip
    assert done.stdout.startswith("True")
    assert f"needs {missing}" in done.stdout
    assert "pip install 'asyncload[tensorflow]'" in done.stdout
