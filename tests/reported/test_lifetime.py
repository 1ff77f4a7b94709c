"""What a Loader has goes when its loop does, however that ends, and no program says so."""

from __future__ import annotations

import asyncio
import os
import signal
import socket
import subprocess
import sys
import threading
import time
import urllib.request
from pathlib import Path

import h5py
import numpy as np
import psutil
import pytest
import safetensors.numpy

import asyncload

PATIENCE = 60  # seconds

BEGIN = """
import asyncio, gc, os, sys, threading, time
import asyncload

path = sys.argv[1]
weights = asyncload.load_weights

async def begin():
    asyncload.prefetch(path, priority="demand")
    await asyncio.sleep(0.2)

async def leave():
    await begin()
    sys.exit(3)

def in_threads():
    many = [threading.Thread(target=asyncio.run, args=(weights(path),)) for _ in "abc"]
    for thread in many:
        thread.start()
    for thread in many:  # Python itself refuses new threads once the main one has ended
        thread.join()

def on_a_loop(make):
    loop = asyncio.new_event_loop()
    loop.run_until_complete(make())
    return loop
"""


@pytest.fixture(scope="module")
def compressed(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("weights") / "w.h5"
    with h5py.File(path, "w") as file:
        for index in range(20):
            values = np.random.default_rng(index).random((200, 200))
            file.create_dataset(f"a{index}", data=values, compression="gzip")
    return path


def run(code: str, path: Path) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-c", BEGIN + code, str(path)]
    return subprocess.run(command, capture_output=True, text=True, timeout=PATIENCE, check=False)


@pytest.mark.parametrize(
    ("code", "expected"),
    [
        ("asyncio.run(weights(path))", 0),
        ("asyncio.run(begin())", 0),
        ("asyncio.run(leave())", 3),
        ("on_a_loop(lambda: weights(path)).close()", 0),
        ("on_a_loop(lambda: weights(path))", 0),
        ("on_a_loop(begin).close(); gc.collect()", 0),
        ("on_a_loop(begin)", 0),
        ("import uvloop; uvloop.run(begin())", 0),
        ("in_threads()", 0),
    ],
)
def test_programs_end_quietly(code: str, expected: int, compressed: Path) -> None:
    done = run(code, compressed)
    assert (done.stderr, done.returncode) == ("", expected)


def test_what_closed_loops_had_goes_with_the_next_call(compressed: Path) -> None:
    held = []
    for _ in range(4):
        loop = asyncio.new_event_loop()
        loop.run_until_complete(asyncload.load_weights(compressed))
        loop.close()
        process = psutil.Process()
        held.append(
            (len(process.children(recursive=True)), threading.active_count(), process.num_fds())
        )
    asyncio.run(asyncload.load_weights(compressed))  # and this ends in order
    assert held[-1][0] <= held[0][0] + 1  # a load has one worker, or two
    assert held[-1][1] <= held[0][1] + 2
    assert held[-1][2] <= held[0][2] + 4


async def test_processes_start_when_needed(compressed: Path, tmp_path: Path) -> None:
    raw = tmp_path / "w.safetensors"
    safetensors.numpy.save_file({"a": np.ones(1000, "float32")}, raw)
    before = set(psutil.Process().children(recursive=True))
    async with asyncload.Loader(processes=2, index_cache=False) as loader:
        await loader.load_weights(raw)
        assert set(psutil.Process().children(recursive=True)) == before
        await loader.inspect(compressed)
        assert len(set(psutil.Process().children(recursive=True)) - before) == 1
        await loader.load_weights(compressed)
        assert len(set(psutil.Process().children(recursive=True)) - before) <= 2


APP = """
import contextlib, os
import asyncload
from fastapi import FastAPI

@contextlib.asynccontextmanager
async def lifespan(app):
    app.state.weights = await asyncload.load_weights(os.environ["WEIGHTS"])
    yield

app = FastAPI(lifespan=lifespan)

@app.get("/")
async def count():
    return len(app.state.weights)
"""


def free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        return int(taken.getsockname()[1])


def test_a_server_that_is_told_to_end(compressed: Path, tmp_path: Path) -> None:
    (tmp_path / "service.py").write_text(APP)
    port = free_port()
    command = [sys.executable, "-m", "uvicorn", "service:app", f"--port={port}"]
    environment = {**os.environ, "WEIGHTS": str(compressed)}
    with subprocess.Popen(
        [*command, "--log-level=warning"],
        cwd=tmp_path,
        env=environment,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    ) as server:
        assert answer(f"http://127.0.0.1:{port}/", server) == b"20"
        children = psutil.Process(server.pid).children(recursive=True)
        assert children
        server.send_signal(signal.SIGTERM)
        said, _ = server.communicate(timeout=PATIENCE)
    assert said == ""
    assert server.returncode in (0, -signal.SIGTERM)  # as uvicorn ends by itself
    _, alive = psutil.wait_procs(children, PATIENCE)
    assert not alive


def answer(url: str, server: subprocess.Popen[str]) -> bytes:
    """Ask until a server answers."""
    deadline = time.monotonic() + PATIENCE
    direct = urllib.request.build_opener(urllib.request.ProxyHandler({}))
    while True:
        try:
            with direct.open(url, timeout=PATIENCE) as response:
                return bytes(response.read())
        except OSError:
            assert server.poll() is None, server.communicate()
            assert time.monotonic() < deadline
            time.sleep(0.05)
