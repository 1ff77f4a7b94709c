"""A web service with aiohttp: answers with the newest version of a model, and swaps while it does.

MODELS=models/ranker/ python -m aiohttp.web -P 8000 examples.aiohttp_app:make_app

``models/ranker/`` has a folder for each version (``1/``, ``2/`` ...), each with a Keras
model in it.
"""

from __future__ import annotations

import asyncio
import os
from collections.abc import AsyncIterator, Sequence
from typing import Any

import numpy as np
from aiohttp import web

from asyncload import AsyncloadError, ModelSlot, NotFound, SlotEmpty, SwapSuperseded

SLOT = web.AppKey("slot", ModelSlot)
MODELS = web.AppKey("models", str)
INTERVAL = web.AppKey("interval", float)

routes = web.RouteTableDef()


def answer(model: Any, inputs: list[list[float]]) -> list[list[float]]:
    """Call the model; runs in a thread."""
    outputs = model(np.asarray(inputs, "float32"), training=False)
    return np.asarray(outputs).tolist()  # type: ignore[no-any-return]


async def follow(slot: ModelSlot, interval: float) -> None:
    """Serve newer versions as they come; failures are logged by the slot, and tried again."""
    async for version in slot.watch(interval=interval):
        print(f"serving version {version}", flush=True)


async def hold_slot(app: web.Application) -> AsyncIterator[None]:
    """Keep the slot while the service runs; it is up, if not ready, while the first model loads."""
    slot = ModelSlot(app[MODELS], wait=False, warmup=True)
    async with slot, asyncio.TaskGroup() as tasks:
        app[SLOT] = slot
        watch = tasks.create_task(follow(slot, app[INTERVAL]))
        yield
        watch.cancel()


@routes.post("/predict")
async def predict(request: web.Request) -> web.Response:
    """Answer rows of numbers."""
    question = await request.json()
    try:
        # The lease lasts until the thread has ended, even if the client goes away.
        outputs = await request.app[SLOT].run(answer, question["inputs"])
    except SlotEmpty as error:
        raise web.HTTPServiceUnavailable(text=str(error)) from error
    return web.json_response({"outputs": outputs})


@routes.post("/swap")
async def swap(request: web.Request) -> web.Response:
    """Swap to a version: a number, not a URI, as a client must not choose what file is loaded."""
    try:
        swapped = await request.app[SLOT].swap(int(request.query["version"]))
    except NotFound as error:
        raise web.HTTPNotFound(text=str(error)) from error
    except SwapSuperseded as error:
        raise web.HTTPConflict(text=str(error)) from error
    except AsyncloadError as error:
        raise web.HTTPUnprocessableEntity(text=str(error)) from error
    return web.json_response({"version": swapped.version, "previous": swapped.previous})


@routes.get("/healthz")
async def alive(request: web.Request) -> web.Response:
    """Say that the service is up."""
    del request
    return web.json_response({"status": "alive"})


@routes.get("/readyz")
async def ready(request: web.Request) -> web.Response:
    """Say whether a model is there."""
    status = request.app[SLOT].status
    content = {"version": status.version, "loading": status.swapping_to, "error": status.error}
    return web.json_response(content, status=200 if status.ready else 503)


def make_app(
    argv: Sequence[str] = (), *, models: str | None = None, interval: float = 5.0
) -> web.Application:
    """Make the service.

    Args:
        argv: what ``python -m aiohttp.web`` did not take; nothing is expected.
        models: the folder of versions; by default the environment's ``MODELS``.
        interval: seconds between looks for newer ones.
    """
    del argv
    app = web.Application()
    app[MODELS] = models or os.environ["MODELS"]
    app[INTERVAL] = interval
    app.add_routes(routes)
    app.cleanup_ctx.append(hold_slot)
    return app
