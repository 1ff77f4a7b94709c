"""Peak memory of a first load, in a process of its own: what an earlier load freed hides nothing.

python benchmarks/_peak.py model|weights URI [URI ...]   prints bytes above the tensors' own
"""

from __future__ import annotations

import asyncio
import sys
import tempfile
from pathlib import Path

import numpy as np
import uvloop
from _measure import PeakMemory

import asyncload

__all__ = ["peak_above"]


async def peak_above(kind: str, uris: list[Path]) -> int:
    """Return the bytes that loading ``uris`` takes at most, above their tensors' own.

    Args:
        kind: ``"model"`` or ``"weights"``.
        uris: loaded at once.
    """
    command = [sys.executable, __file__, kind, *map(str, uris)]
    process = await asyncio.create_subprocess_exec(
        *command, stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.DEVNULL
    )
    printed, _ = await process.communicate()
    if process.returncode:
        raise SystemExit(f"{' '.join(command)} failed")
    return int(printed)


async def _main(kind: str, uris: list[str]) -> None:
    async with asyncload.Loader() as loader:
        with tempfile.TemporaryDirectory() as folder:
            await loader.load_many([await asyncio.to_thread(_small, kind, Path(folder))])
        nbytes = sum([(await loader.inspect(uri)).nbytes for uri in uris])
        with PeakMemory() as peak:
            loaded = await loader.load_many(uris)
        del loaded
    sys.stdout.write(f"{peak.peak - nbytes}\n")


def _small(kind: str, folder: Path) -> Path:
    """Return a file whose load imports and starts whatever a first load does."""
    if kind == "weights":
        path = folder / "small.npz"
        np.savez_compressed(path, np.zeros(1 << 20))
        return path
    import keras

    path = folder / "small.keras"
    keras.Sequential([keras.Input((4,)), keras.layers.Dense(2)]).save(path)
    return path


if __name__ == "__main__":
    uvloop.run(_main(sys.argv[1], sys.argv[2:]))
