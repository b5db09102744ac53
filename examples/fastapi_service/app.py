"""A FastAPI service with the engine inside.

    uvicorn --app-dir examples/fastapi_service app:app
    gunicorn -k uvicorn_worker.UvicornWorker -w 4 --chdir examples/fastapi_service app:app
    curl -d '{"row": [1, 2, 3, 4]}' -H 'content-type: application/json' localhost:8000/predict

The engine lives as long as the application: made in each process after it was forked (so any number
of workers is fine), closed at its end. Requests of one moment become one batch.
"""

import asyncio
import time
from collections.abc import AsyncIterator, Coroutine
from contextlib import asynccontextmanager
from typing import Annotated, Any

import numpy as np
from fastapi import Depends, FastAPI, Request, Response
from fastapi.responses import JSONResponse
from numpy.typing import NDArray
from pydantic import BaseModel

import clipper


def total(batch: NDArray[np.float32]) -> NDArray[np.float32]:
    """Stand in for your model: 20 ms, however many rows."""
    time.sleep(0.02)
    return np.asarray(batch.sum(axis=1), np.float32)


@asynccontextmanager
async def lifespan(app: FastAPI) -> AsyncIterator[None]:
    """Keep an engine as long as the application runs."""
    with clipper.Engine() as engine:
        await engine.deploy_async("total", total, warmup=np.ones(4, np.float32))
        app.state.engine = engine
        app.state.totals = engine.create_application("totals", models=["total"], slo=5.0)
        yield


app = FastAPI(lifespan=lifespan)


async def totals(request: Request) -> clipper.Application:
    """Give handlers the application. Async, or FastAPI would ask a thread for it each time."""
    application: clipper.Application = request.app.state.totals
    return application


class Question(BaseModel):
    """What is asked."""

    row: list[float]


@app.post("/predict", response_model=None)
async def predict(
    question: Question, request: Request, asked: Annotated[clipper.Application, Depends(totals)]
) -> dict[str, Any] | Response:
    """Answer one row."""
    try:
        row = np.asarray(question.row, np.float32)
        prediction = await unless_gone(request, asked.predict_async(row))
    except ConnectionAbortedError:
        return Response(status_code=499)  # nobody reads it
    return {"output": float(prediction.output), "latency": prediction.latency}


async def unless_gone(
    request: Request, answer: Coroutine[Any, Any, clipper.Prediction]
) -> clipper.Prediction:
    """Await an answer; if the client disconnects first, withdraw the question.

    Handlers are not cancelled when their client disconnects: whoever wants to know must ask for
    the connection's next message. Cancelling the task withdraws the row.
    """
    asked = asyncio.create_task(answer)
    gone = asyncio.create_task(_gone(request))
    try:
        await asyncio.wait({asked, gone}, return_when=asyncio.FIRST_COMPLETED)
        if asked.done():
            return asked.result()
        raise ConnectionAbortedError("the client has gone")
    finally:
        asked.cancel()
        gone.cancel()


async def _gone(request: Request) -> None:
    while (await request.receive())["type"] != "http.disconnect":
        pass


@app.exception_handler(clipper.ClipperError)
async def refuse(request: Request, error: clipper.ClipperError) -> JSONResponse:
    """Answer with the status that each of Clipper's errors knows."""
    return JSONResponse({"detail": str(error)}, status_code=error.status)


@app.exception_handler(ValueError)
async def complain(request: Request, error: ValueError) -> JSONResponse:
    """Say what was wrong with the row."""
    return JSONResponse({"detail": str(error)}, status_code=422)


@app.get("/describe")
async def describe(request: Request) -> dict[str, Any]:
    """Show the engine's counters."""
    counters: dict[str, Any] = request.app.state.engine.describe()
    return counters
