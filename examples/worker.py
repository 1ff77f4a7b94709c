"""A worker without a framework: jobs from standard input, several at once, the newest model.

python examples/worker.py models/ranker/ < jobs

A job is a line of JSON, ``{"id": 7, "inputs": [[1, 2, 3, 4]]}``; its answer is a line on standard
output. Newer versions in ``models/ranker/`` (``1/``, ``2/`` ...) are served as they come.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import sys
from typing import Any

import numpy as np

from asyncload import ModelSlot

AT_ONCE = 4  # jobs


def answer(model: Any, inputs: list[list[float]]) -> list[list[float]]:
    """Call the model; runs in a thread."""
    outputs = model(np.asarray(inputs, "float32"), training=False)
    return np.asarray(outputs).tolist()  # type: ignore[no-any-return]


async def work(slot: ModelSlot, jobs: asyncio.Queue[str]) -> None:
    """Do one job after the other, until there are no more."""
    while line := await jobs.get():
        job = json.loads(line)
        outputs = await slot.run(answer, job["inputs"])
        print(json.dumps({"id": job["id"], "outputs": outputs}), flush=True)


async def read(jobs: asyncio.Queue[str]) -> None:
    """Queue the jobs, and then an end for each who works on them."""
    while line := await asyncio.to_thread(sys.stdin.readline):
        await jobs.put(line)
    for _ in range(AT_ONCE):
        await jobs.put("")


async def follow(slot: ModelSlot, interval: float) -> None:
    """Serve newer versions as they come."""
    async for version in slot.watch(interval=interval):
        print(f"serving version {version}", file=sys.stderr, flush=True)


async def main(models: str, interval: float) -> None:
    """Load the newest version, and do all jobs."""
    jobs: asyncio.Queue[str] = asyncio.Queue(2 * AT_ONCE)
    async with ModelSlot(models, warmup=True) as slot, asyncio.TaskGroup() as following:
        watch = following.create_task(follow(slot, interval))
        async with asyncio.TaskGroup() as tasks:
            tasks.create_task(read(jobs))
            for number in range(AT_ONCE):
                tasks.create_task(work(slot, jobs), name=f"worker-{number}")
        watch.cancel()


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("models", help="folder of versions, or URI of one")
    parser.add_argument("--interval", type=float, default=5.0, help="seconds between looks")
    given = parser.parse_args()
    asyncio.run(main(given.models, given.interval))
