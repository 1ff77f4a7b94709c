"""The ``asyncload`` command: load, inspect, cache, demo.

Errors end in exit code 1 and one line on standard error; ``--debug`` shows the traceback. With
``--json``, standard output holds one JSON document and nothing else.
"""

from __future__ import annotations

import asyncio
import json
import os
import sys
import time
from collections.abc import Awaitable, Callable, Sequence
from contextlib import nullcontext
from pathlib import Path
from typing import Annotated, Any, TypeVar

import typer
from rich.console import Console
from rich.filesize import decimal
from rich.table import Table
from rich.text import Text

import asyncload
from asyncload.events import Event, FellBack, Indexed
from asyncload.loader import IndexCache, Kept
from asyncload.manifest import Encoding, Manifest
from asyncload.report import ProgressReporter, Timeline

__all__ = ["app", "main"]

Result = TypeVar("Result")

app = typer.Typer(
    help="Load TensorFlow and Keras models without stalling an event loop.",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    add_completion=False,
)
cache = typer.Typer(
    help="The index cache: what spares the second load of a file its index.", no_args_is_help=True
)
app.add_typer(cache, name="cache")

_Uri = Annotated[
    str, typer.Argument(metavar="URI", help="a path, file://, s3://, gs://, az://, https://")
]
_Json = Annotated[bool, typer.Option("--json", help="print JSON instead of tables")]
_Debug = Annotated[bool, typer.Option("--debug", help="show the traceback of an error")]

_INTERRUPTED = 130  # what shells expect after SIGINT


@app.command()
def load(
    uri: _Uri,
    weights: Annotated[
        bool, typer.Option("--weights", help="only the tensors: no model, no TensorFlow")
    ] = False,
    compile_model: Annotated[
        bool, typer.Option("--compile/--no-compile", help="compile the model as it was saved")
    ] = True,
    whole: Annotated[
        bool, typer.Option("--whole", help="of a SavedModel, the object and not its signatures")
    ] = False,
    trusted: Annotated[
        bool, typer.Option("--trusted", help="a SavedModel from elsewhere may run")
    ] = False,
    warmup: Annotated[
        bool, typer.Option("--warmup", help="call the model once before it counts as loaded")
    ] = False,
    verify: Annotated[
        bool, typer.Option("--verify/--no-verify", help="compare checksums of tensors")
    ] = True,
    as_json: _Json = False,
    debug: _Debug = False,
) -> None:
    """Load URI, and say how long it took and what it holds."""

    async def run(loader: asyncload.Loader) -> Any:
        if weights:
            return await loader.load_weights(uri, verify=verify)
        return await loader.load(
            uri,
            compile=compile_model,
            whole=whole,
            trusted=trusted or None,
            warmup=warmup,
            verify=verify,
        )

    _guard(lambda: _load(uri, run, as_json=as_json), debug)


@app.command()
def inspect(
    uri: _Uri,
    as_json: _Json = False,
    debug: _Debug = False,
) -> None:
    """List the tensors of URI from its index, reading none of them."""
    _guard(lambda: _inspect(uri, as_json=as_json), debug)


@app.command()
def demo(
    model: Annotated[
        str, typer.Option(help="the keras.applications model that is loaded meanwhile")
    ] = "ResNet152",
    as_json: _Json = False,
    debug: _Debug = False,
) -> None:
    """Serve one model while another loads, beside Keras doing the same, and measure both."""

    async def run() -> None:
        from asyncload import _demo

        await _demo.run(model, as_json=as_json)

    _guard(run, debug)


@cache.command("info")
def cache_info(as_json: _Json = False, debug: _Debug = False) -> None:
    """Say where the index cache is, and what it holds."""
    _guard(lambda: _cache(IndexCache.files, "holds", as_json=as_json), debug)


@cache.command("clear")
def cache_clear(as_json: _Json = False, debug: _Debug = False) -> None:
    """Remove all that the index cache holds."""
    _guard(lambda: _cache(IndexCache.clear, "removed", as_json=as_json), debug)


def main() -> None:
    """Run the command that ``sys.argv`` names."""
    # Of TensorFlow's log, what is not an error says nothing about the load.
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
    app()


def _guard(command: Callable[[], Awaitable[None]], debug: bool) -> None:
    """Run a command on uvloop; an error becomes a line on standard error and exit code 1."""
    try:
        _run(command)
    except KeyboardInterrupt:
        raise typer.Exit(_INTERRUPTED) from None
    except BrokenPipeError:
        # Whoever read our output (``head``) has gone; nothing may be flushed to it at exit.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        raise typer.Exit(1) from None
    except Exception as error:
        if debug:
            raise
        typer.echo(f"asyncload: {_one_line(error)}", err=True)
        raise typer.Exit(1) from None


def _run(command: Callable[[], Awaitable[None]]) -> None:
    async def closed() -> None:
        try:
            await command()
        finally:
            await asyncload.aclose()

    if sys.platform == "win32":
        asyncio.run(closed())
    else:
        import uvloop

        uvloop.run(closed())


def _one_line(error: Exception) -> str:
    text = " ".join(str(error).split())
    if isinstance(error, asyncload.AsyncloadError):
        return text
    if isinstance(error, ModuleNotFoundError) and error.name in ("tensorflow", "keras"):
        return (
            f"this needs {error.name}: pip install 'asyncload[tensorflow]', or use "
            "--weights to load the tensors alone"
        )
    return f"{type(error).__name__}: {text} (--debug shows where)"


# --- load --------------------------------------------------------------------------------


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
        "uri": uri,
        **_describe(result),
        "index": "from the cache" if cached else "from the file",
        "seconds": seconds,
        "fell_back": fallbacks,
    }
    if as_json:
        _print_json({**summary, "timeline": timeline.as_dict()})
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
    console = Console()
    table = Table.grid(padding=(0, 2))
    for key, value in summary.items():
        if key == "fell_back":
            continue
        table.add_row(Text(key, style="bold"), Text(_shown(key, value)))
    for reason in summary["fell_back"]:
        table.add_row(Text("slower way", style="bold yellow"), Text(reason))
    console.print(table)
    console.print()
    console.print(timeline)


def _shown(key: str, value: Any) -> str:
    if key == "nbytes":
        return decimal(value)
    if key == "seconds":
        return f"{value:.3f}"
    return f"{value:,}" if isinstance(value, int) else str(value)


# --- inspect -----------------------------------------------------------------------------


async def _inspect(uri: str, *, as_json: bool) -> None:
    manifest = await asyncload.inspect(uri)
    if as_json:
        _print_json(_manifest_json(manifest))
    else:
        _print_manifest(manifest)


def _manifest_json(manifest: Manifest) -> dict[str, Any]:
    return {
        "uri": manifest.uri,
        "format": manifest.format,
        "nbytes": manifest.nbytes,
        "files": [{"name": file.name, "size": file.size} for file in manifest.files],
        "documents": {name: len(data) for name, data in manifest.documents.items()},
        "assets": {name: entry.nbytes for name, entry in manifest.assets.items()},
        "tensors": [
            {
                "name": entry.name,
                "dtype": entry.dtype,
                "shape": entry.shape,
                "nbytes": entry.nbytes,
                "stored": entry.length,
                "encoding": _encoding(entry.encoding),
            }
            for entry in manifest.tensors.values()
        ],
    }


def _print_manifest(manifest: Manifest) -> None:
    console = Console()
    table = Table(title=Text(f"{Path(manifest.uri).name}: {manifest.format}"), title_justify="left")
    for heading, justify in (
        ("tensor", "left"), ("dtype", "left"), ("shape", "left"), ("bytes", "right"),
        ("encoding", "left"),
    ):  # fmt: skip
        table.add_column(heading, justify=justify, overflow="fold")  # type: ignore[arg-type]
    for entry in manifest.tensors.values():
        shape = " × ".join(map(str, entry.shape)) or "scalar"
        decoded, encoding = decimal(entry.nbytes), _encoding(entry.encoding)
        table.add_row(Text(entry.name), entry.dtype, shape, decoded, encoding)
    console.print(table)
    for kind, sizes in (
        ("document", {name: len(data) for name, data in manifest.documents.items()}),
        ("asset", {name: entry.nbytes for name, entry in manifest.assets.items()}),
    ):
        for name, size in sizes.items():
            console.print(Text(f"{kind} {name}: {decimal(size)}"))
    console.print(
        f"{len(manifest.tensors):,} tensors, {decimal(manifest.nbytes)} "
        f"in {len(manifest.files)} file{'s' if len(manifest.files) != 1 else ''}",
        highlight=False,
    )


def _encoding(encoding: Encoding | None) -> str:
    return "raw" if encoding is None else type(encoding).__name__.lower()


# --- cache -------------------------------------------------------------------------------


async def _cache(work: Callable[[IndexCache], Sequence[Kept]], verb: str, *, as_json: bool) -> None:
    kept = IndexCache()
    files = await asyncio.to_thread(work, kept)
    folder, nbytes = str(kept.folder), sum(file.nbytes for file in files)
    if as_json:
        _print_json({"folder": folder, "entries": len(files), "nbytes": nbytes})
    else:
        entries = f"{len(files):,} {'entry' if len(files) == 1 else 'entries'}"
        typer.echo(f"{folder}: {verb} {entries}, {decimal(nbytes)}")


def _print_json(document: dict[str, Any]) -> None:
    typer.echo(json.dumps(document, indent=2))
