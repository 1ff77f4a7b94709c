"""``asyncload load``, and the demo of it."""

from __future__ import annotations

import time
from collections.abc import Awaitable, Callable
from contextlib import nullcontext
from typing import Annotated, Any

import typer
from rich.filesize import decimal
from rich.table import Table
from rich.text import Text

import asyncload
from asyncload.events import Event, FellBack, Indexed
from asyncload.redaction import shown
from asyncload.report import ProgressReporter, Timeline
from asyncload.texts import printable

from ._command import AsJson, Debug, Uri, app, console, guard, print_json

__all__: list[str] = []


@app.command()
def load(
    uri: Uri,
    weights: Annotated[
        bool, typer.Option("--weights", help="only the tensors: no model, no TensorFlow")
    ] = False,
    compile_model: Annotated[
        bool, typer.Option("--compile/--no-compile", help="compile the model as it was saved")
    ] = True,
    whole: Annotated[
        bool, typer.Option("--whole", help="of a SavedModel, the object and not its signatures")
    ] = False,
    tag: Annotated[
        list[str] | None,
        typer.Option("--tag", help="of a SavedModel, the graph with exactly these tags"),
    ] = None,
    trusted: Annotated[
        bool, typer.Option("--trusted", help="a SavedModel from elsewhere may run")
    ] = False,
    warmup: Annotated[
        bool, typer.Option("--warmup", help="call the model once before it counts as loaded")
    ] = False,
    verify: Annotated[
        bool, typer.Option("--verify/--no-verify", help="compare checksums of tensors")
    ] = True,
    as_json: AsJson = False,
    debug: Debug = False,
) -> None:
    """Load URI, and say how long it took and what it holds."""

    async def run(loader: asyncload.Loader) -> Any:
        if weights:
            return await loader.load_weights(uri, verify=verify)
        return await loader.load(
            uri,
            compile=compile_model,
            whole=whole,
            tags=tag or None,
            trusted=trusted or None,
            warmup=warmup,
            verify=verify,
        )

    guard(lambda: _load(uri, run, as_json=as_json), debug)


@app.command()
def demo(
    model: Annotated[
        str, typer.Option(help="the keras.applications model that is loaded meanwhile")
    ] = "ResNet152",
    as_json: AsJson = False,
    debug: Debug = False,
) -> None:
    """Serve one model while another loads, beside Keras doing the same, and measure both."""

    async def run() -> None:
        from asyncload import _demo

        await _demo.run(model, as_json=as_json)

    guard(run, debug)


async def _load(
    uri: str, run: Callable[[asyncload.Loader], Awaitable[Any]], *, as_json: bool
) -> None:
    timeline, fallbacks, cached = Timeline(), [], False
    bar = nullcontext(_ignore) if as_json else ProgressReporter(transient=True)

    with bar as draw:

        def observe(event: Event) -> None:
            nonlocal cached
            timeline(event)
            draw(event)
            if isinstance(event, FellBack):
                fallbacks.append(event.reason)
            elif isinstance(event, Indexed):
                cached = event.cached

        async with asyncload.Loader(observer=observe) as loader:
            begin = time.perf_counter()
            result = await run(loader)
            seconds = time.perf_counter() - begin

    summary = {
        "uri": shown(uri),
        **_describe(result),
        "index": "from the cache" if cached else "from the file",
        "seconds": seconds,
        "fell_back": fallbacks,
    }
    if as_json:
        print_json({**summary, "timeline": timeline.as_dict()})
    else:
        _print_summary(summary, timeline)


def _ignore(event: Event) -> None:
    del event


def _describe(result: Any) -> dict[str, Any]:
    if isinstance(result, asyncload.Weights):
        return {
            "kind": "weights",
            "format": result.manifest.format,
            "tensors": len(result),
            "nbytes": result.nbytes,
        }
    if isinstance(result, asyncload.Signatures):
        return {"kind": "signatures", **{name: _call(result[name]) for name in result}}
    kind = f"{type(result).__module__}.{type(result).__qualname__}"
    if hasattr(result, "signatures"):
        return {"kind": kind, "signatures": ", ".join(result.signatures)}
    # A Keras model: sizes by what its variables say, for no array is to be copied for this.
    return {
        "kind": kind,
        "name": result.name,
        "layers": len(result.layers),
        "parameters": result.count_params(),
        "tensors": len(result.weights),
    }


def _call(signature: asyncload.Signature) -> str:
    """Return what a signature takes and gives, on one line."""
    inputs = ", ".join(
        f"{name}: {spec.dtype.name} {spec.shape}" for name, spec in signature.inputs.items()
    )
    return f"({inputs}) -> {', '.join(signature.outputs)}"


def _print_summary(summary: dict[str, Any], timeline: Timeline) -> None:
    out = console()
    table = Table.grid(padding=(0, 2))
    for key, value in summary.items():
        if key == "fell_back":
            continue
        table.add_row(Text(key, style="bold"), Text(printable(_shown(key, value))))
    for reason in summary["fell_back"]:
        table.add_row(Text("slower way", style="bold yellow"), Text(printable(reason)))
    out.print(table)
    out.print()
    out.print(timeline)


def _shown(key: str, value: Any) -> str:
    if key == "nbytes":
        return decimal(value)
    if key == "seconds":
        return f"{value:.3f}"
    return f"{value:,}" if isinstance(value, int) else str(value)
