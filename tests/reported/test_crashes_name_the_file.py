"""Whoever reads of a dead worker reads what it was working on."""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import psutil
import pytest

import asyncload


async def dying(work: Any) -> None:
    """Await something while each worker is killed as soon as it is there."""
    task = asyncio.ensure_future(work)
    while not task.done():
        for child in psutil.Process().children(recursive=True):
            with contextlib.suppress(psutil.Error, ProcessLookupError):
                if "_boot.py" in " ".join(child.cmdline()):
                    os.kill(child.pid, signal.SIGKILL)
        await asyncio.sleep(0.002)
    await task


async def test_of_an_index_and_of_a_tensor(tmp_path: Path) -> None:
    path = tmp_path / "w.h5"
    with h5py.File(path, "w") as file:
        file.create_dataset("a", data=np.arange(1000.0), compression="gzip")
    np.savez_compressed(tmp_path / "w.npz", a=np.arange(1000.0))
    async with asyncload.Loader(processes=1, index_cache=False) as loader:
        for where in (path, tmp_path / "w.npz"):
            with pytest.raises(asyncload.WorkerCrashed) as caught:
                await dying(loader.load_weights(where))
            assert caught.value.uri == str(where)
            assert str(where) in str(caught.value)
            assert "SIGKILL" in str(caught.value)
