"""A web service with FastAPI: answers with the newest version of a model, and swaps while it does.

MODELS=models/ranker/ uvicorn --factory examples.fastapi_app:make_app

``models/ranker/`` has a folder for each version (``1/``, ``2/`` ...), each with a Keras
model in it.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import os
from collections.abc import AsyncIterator
from typing import Annotated, Any

import numpy as np
from fastapi import APIRouter, Depends, FastAPI, HTTPException, Request
from fastapi.responses import JSONResponse
from pydantic import BaseModel

from asyncload import AsyncloadError, ModelSlot, NotFound, SlotEmpty, SwapSuperseded

router = APIRouter()
log = logging.getLogger("uvicorn.error")


class Question(BaseModel):
    """What is to be answered: rows of numbers."""

    inputs: list[list[float]]


def answer(model: Any, inputs: list[list[float]]) -> list[list[float]]:
    """Call the model; runs in a thread."""
    outputs = model(np.asarray(inputs, "float32"), training=False)
    return np.asarray(outputs).tolist()  # type: ignore[no-any-return]


async def follow(slot: ModelSlot, interval: float) -> None:
    """Serve newer versions as they come; failures are logged by the slot, and tried again."""
    async for version in slot.watch(interval=interval):
        log.info("serving version %d", version)


async def get_slot(request: Request) -> ModelSlot:
    """Give handlers the slot."""
    slot: ModelSlot = request.app.state.slot
    return slot


Slot = Annotated[ModelSlot, Depends(get_slot)]


@router.post("/predict")
async def predict(question: Question, slot: Slot) -> dict[str, Any]:
    """Answer rows of numbers."""
    # The lease lasts until the thread has ended, even if the client goes away.
    return {"outputs": await slot.run(answer, question.inputs)}


@router.post("/swap")
async def swap(version: int, slot: Slot) -> dict[str, Any]:
    """Swap to a version: a number, not a URI, as a client must not choose what file is loaded."""
    try:
        swapped = await slot.swap(version)
    except NotFound as error:
        raise HTTPException(404, str(error)) from error
    except SwapSuperseded as error:
        raise HTTPException(409, str(error)) from error
    except AsyncloadError as error:
        raise HTTPException(422, str(error)) from error
    return {"version": swapped.version, "previous": swapped.previous}


@router.get("/healthz")
async def alive() -> dict[str, str]:
    """Say that the service is up."""
    return {"status": "alive"}


@router.get("/readyz")
async def ready(slot: Slot) -> JSONResponse:
    """Say whether a model is there."""
    status = slot.status
    content = {"version": status.version, "loading": status.swapping_to, "error": status.error}
    return JSONResponse(content, status_code=200 if status.ready else 503)


def make_app(models: str | None = None, interval: float = 5.0) -> FastAPI:
    """Make the service.

    Args:
        models: the folder of versions; by default the environment's ``MODELS``.
        interval: seconds between looks for newer ones.
    """

    @contextlib.asynccontextmanager
    async def lifespan(app: FastAPI) -> AsyncIterator[None]:
        # The service is up, if not ready, while the first model loads.
        slot = ModelSlot(models or os.environ["MODELS"], wait=False, warmup=True)
        async with slot, asyncio.TaskGroup() as tasks:
            app.state.slot = slot
            watch = tasks.create_task(follow(slot, interval))
            yield
            watch.cancel()

    app = FastAPI(lifespan=lifespan)
    app.include_router(router)

    @app.exception_handler(SlotEmpty)
    async def no_model(request: Request, error: SlotEmpty) -> JSONResponse:
        del request
        return JSONResponse({"detail": str(error)}, status_code=503)

    return app
