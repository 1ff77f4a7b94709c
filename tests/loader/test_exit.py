"""Programs that end in the middle of a load leave nothing behind."""

from __future__ import annotations

import asyncio
import os
import signal
import sys
import time
from pathlib import Path

import numpy as np
import psutil
import pytest

PROGRAM = """
import asyncio, sys
import asyncload

def decode(buffer):
    import time
    time.sleep(60)

async def main():
    parts = asyncload.map_parts(decode, sys.argv[1:])
    task = asyncio.ensure_future(anext(parts))
    await asyncload.load_weights(sys.argv[1])
    await asyncio.sleep(0.3)
    print("ready", flush=True)
    sys.stdin.readline()
    END

asyncio.run(main())
"""


async def outcome(end: str, path: Path, send: signal.Signals | None) -> tuple[int, list[int]]:
    """Run the program to its end; return its exit code, and its children that are left."""
    process = await asyncio.create_subprocess_exec(
        sys.executable,
        "-c",
        PROGRAM.replace("END", end),
        str(path),
        str(path),
        stdin=asyncio.subprocess.PIPE,
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.DEVNULL,
    )
    assert process.stdout is not None
    assert await asyncio.wait_for(process.stdout.readline(), 30) == b"ready\n"
    children = psutil.Process(process.pid).children(recursive=True)
    assert children, "no worker was at work"
    assert process.stdin is not None
    process.stdin.write(b"\n")
    if send is not None:
        await asyncio.sleep(0.2)
        process.send_signal(send)
    code = await asyncio.wait_for(process.wait(), 20)
    await asyncio.to_thread(psutil.wait_procs, children, 5)
    left = [child.pid for child in children if child.is_running()]
    shared = os.listdir("/dev/shm") if os.path.isdir("/dev/shm") else []
    assert [name for name in shared if str(process.pid) in name] == []
    return code, left


@pytest.mark.parametrize(
    ("end", "send"),
    [
        ("return", None),
        ("raise SystemExit(3)", None),
        ("import os; os._exit(3)", None),
        ("await asyncio.sleep(60)", signal.SIGINT),
        ("await asyncio.sleep(60)", signal.SIGTERM),
        ("await asyncio.sleep(60)", signal.SIGKILL),
    ],
)
@pytest.mark.either_loop
async def test_nothing_is_left(end: str, send: signal.Signals | None, tmp_path: Path) -> None:
    path = tmp_path / "part.npy"
    np.save(path, np.zeros(1000))
    begin = time.perf_counter()
    code, left = await outcome(end, path, send)
    assert left == []
    assert time.perf_counter() - begin < 20
    if send is None:
        assert code == (0 if end == "return" else 3)
