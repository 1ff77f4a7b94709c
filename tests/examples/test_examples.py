"""The examples answer real clients, under load, while their models swap."""

from __future__ import annotations

import asyncio
import json
import os
import shutil
import socket
import subprocess
import sys
from collections.abc import AsyncIterator, Callable
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from pathlib import Path
from typing import Any

import aiohttp
import httpx
import numpy as np
import pytest
import uvicorn
from aiohttp import web

import asyncload
from examples import aiohttp_app, fastapi_app
from tests.serving.models import ONES, save_versions

ROOT = Path(__file__).parent.parent.parent
INTERVAL = 0.05  # seconds
CLIENTS = 4
PATIENCE = 60  # seconds


@pytest.fixture(scope="module")
def saved(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_versions(tmp_path_factory.mktemp("base"), 1, 2, 3)


def version_in(outputs: Any) -> int:
    values = np.asarray(outputs) / (ONES.shape[1] + 1)
    assert values.size
    assert values.min() == values.max(), f"a mixture of versions: {values}"
    return int(values.min())


@asynccontextmanager
async def with_fastapi(models: str) -> AsyncIterator[str]:
    with socket.create_server(("127.0.0.1", 0)) as listening:
        config = uvicorn.Config(fastapi_app.make_app(models, INTERVAL), log_config=None)
        server = uvicorn.Server(config)
        serving = asyncio.create_task(server.serve(sockets=[listening]))
        while not server.started:
            assert not serving.done()
            await asyncio.sleep(0.01)
        try:
            yield f"http://127.0.0.1:{listening.getsockname()[1]}"
        finally:
            server.should_exit = True
            await serving


@asynccontextmanager
async def with_aiohttp(models: str) -> AsyncIterator[str]:
    runner = web.AppRunner(aiohttp_app.make_app(models=models, interval=INTERVAL))
    await runner.setup()
    try:
        site = web.TCPSite(runner, "127.0.0.1", 0)
        await site.start()
        host, port = runner.addresses[0][:2]
        yield f"http://{host}:{port}"
    finally:
        await runner.cleanup()


Serve = Callable[[str], AbstractAsyncContextManager[str]]


@pytest.fixture(params=[with_fastapi, with_aiohttp])
async def serve(request: pytest.FixtureRequest) -> AsyncIterator[Serve]:
    yield request.param
    await asyncload.aclose()


@pytest.fixture
async def client() -> AsyncIterator[httpx.AsyncClient]:
    async with httpx.AsyncClient(timeout=PATIENCE, trust_env=False) as made:
        yield made


async def ask(client: httpx.AsyncClient, url: str) -> int:
    answer = await client.post(f"{url}/predict", json={"inputs": ONES.tolist()})
    assert answer.status_code == 200, answer.text
    return version_in(answer.json()["outputs"])


async def test_under_load_while_models_swap(
    serve: Serve, client: httpx.AsyncClient, saved: Path
) -> None:
    counts = dict.fromkeys((1, 2, 3), 0)
    ended = False

    async def load(url: str) -> None:
        while not ended:
            counts[await ask(client, url)] += 1

    async with serve(str(saved)) as url:
        assert await ask(client, url) == 3, "it waits for the first model"
        clients = [asyncio.create_task(load(url)) for _ in range(CLIENTS)]
        for version in (1, 2, 3, 1, 2):
            swapped = await client.post(f"{url}/swap", params={"version": version})
            assert swapped.json()["version"] == version
            assert await ask(client, url) == version
        ended = True
        await asyncio.gather(*clients)
        missing = await client.post(f"{url}/swap", params={"version": 9})
        assert missing.status_code == 404
        assert "no version 9" in missing.text
    assert all(counts.values()), counts


async def test_ready_when_a_model_is_there(
    serve: Serve, client: httpx.AsyncClient, saved: Path, tmp_path: Path
) -> None:
    base = tmp_path / "base"
    base.mkdir()
    async with serve(f"{base}/") as url:
        for path, status in (("healthz", 200), ("readyz", 503)):
            assert (await client.get(f"{url}/{path}")).status_code == status
        none = await client.post(f"{url}/predict", json={"inputs": ONES.tolist()})
        assert none.status_code == 503
        shutil.copytree(saved / "2", base / "2")
        async with asyncio.timeout(PATIENCE):
            while (await client.get(f"{url}/readyz")).status_code != 200:
                await asyncio.sleep(0.01)
        assert (await client.get(f"{url}/readyz")).json()["version"] == 2
        assert await ask(client, url) == 2


async def test_a_client_that_goes_away_leaves_no_lease(
    serve: Serve, client: httpx.AsyncClient, saved: Path
) -> None:
    async with serve(str(saved)) as url:
        await ask(client, url)
        async with aiohttp.ClientSession() as session:
            rows = {"inputs": ONES.tolist() * 20_000}

            async def give_up() -> None:
                async with session.post(f"{url}/predict", json=rows) as answer:
                    await answer.read()

            for delay in (0.0, 0.02, 0.1):
                asking = asyncio.create_task(give_up())
                await asyncio.sleep(delay)
                asking.cancel()
                await asyncio.wait([asking])
        swapped = await client.post(f"{url}/swap", params={"version": 1})
        assert swapped.status_code == 200
        assert await ask(client, url) == 1


def test_the_worker(saved: Path, tmp_path: Path) -> None:
    base = tmp_path / "base"
    shutil.copytree(saved / "1", base / "1")
    command = [sys.executable, str(ROOT / "examples" / "worker.py"), str(base), "--interval=0.05"]
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    versions: list[int] = []
    with subprocess.Popen(
        command,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        text=True,
        env=environment,
    ) as process:
        assert process.stdin is not None
        assert process.stdout is not None
        while versions[-1:] != [2]:
            job = len(versions)
            process.stdin.write(json.dumps({"id": job, "inputs": ONES.tolist()}) + "\n")
            process.stdin.flush()
            answer = json.loads(process.stdout.readline())
            assert answer["id"] == job
            versions.append(version_in(answer["outputs"]))
            if job == 3:
                shutil.copytree(saved / "2", base / "2")
        process.stdin.close()
        assert process.stdout.read() == ""
        assert process.wait(PATIENCE) == 0
    assert versions == sorted(versions)
    assert versions[0] == 1
