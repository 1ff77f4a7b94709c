"""The rooms keep to their floors, and a cheap import stays cheap."""

from __future__ import annotations

import ast
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

import asyncload

ROOT = Path(asyncload.__file__).parent

# Room -> floor. A room imports from lower floors, and from itself.
FLOORS = {
    "redaction": -1,
    "texts": -1,
    "errors": 0,
    "events": 0,
    "manifest": 0,
    "interfaces": 0,
    "cache_folder": 0,
    "closing": 0,
    "collecting": 0,
    "cgroups": -1,
    "forks": 0,
    "cpu_time": 0,
    "resting": 0,
    "sources": 1,
    "formats": 1,
    "codecs": 1,
    "memory": 1,
    "workers": 1,
    "pipeline": 2,
    "materialize": 3,
    "loader": 4,
    "serving": 4,
    "report": 4,
    "sync": 5,
    "cli": 5,
    "_demo": 5,
    "_probe": 5,
    "__main__": 6,
}
# Seams on one floor that are meant: the words build on one another, the command runs the demo,
# formats check and decode what they index, as codecs do what is loaded, and slots use a Loader.
NEIGHBOURS = {
    ("interfaces", "manifest"),
    ("interfaces", "errors"),
    ("forks", "errors"),
    ("cpu_time", "forks"),
    ("collecting", "forks"),
    ("cli", "_demo"),
    ("_demo", "_probe"),
    ("formats", "codecs"),
    ("serving", "loader"),
}
TENSORFLOW = {"tensorflow", "keras"}
# One room uses them; the demo loads with Keras itself, to compare.
TENSORFLOW_ROOMS = {"materialize", "_demo"}

IMPORT_LIMIT = 0.060  # seconds above a bare interpreter


def modules() -> list[Path]:
    return sorted(ROOT.rglob("*.py"))


def room(path: Path) -> str:
    first = path.relative_to(ROOT).parts[0]
    return first.removesuffix(".py")


def imports(path: Path) -> Iterator[tuple[int, str]]:
    """Yield (line, absolute module name) of every import, those inside functions included."""
    package = ["asyncload", *path.relative_to(ROOT).parent.parts]
    for node in ast.walk(ast.parse(path.read_text(), str(path))):
        if isinstance(node, ast.Import):
            yield from ((node.lineno, alias.name) for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            base = package[: len(package) - node.level + 1] if node.level else []
            name = ".".join([*base, *([node.module] if node.module else [])])
            if name == "asyncload":
                yield from ((node.lineno, f"asyncload.{alias.name}") for alias in node.names)
            else:
                yield node.lineno, name


def home(name: str) -> str:
    """Return the room of ``asyncload.room...`` or of a public name ``asyncload.Name``."""
    first = name.split(".")[1]
    return first if first in FLOORS else asyncload._HOME_OF[first].split(".")[0]


def test_every_module_has_a_floor() -> None:
    assert {room(path) for path in modules()} - {"__init__"} <= set(FLOORS)


@pytest.mark.parametrize("path", modules(), ids=lambda path: str(path.relative_to(ROOT)))
def test_imports_only_from_below(path: Path) -> None:
    own = room(path)
    if own == "__init__":
        return
    wrong = []
    for line, name in imports(path):
        if not name.startswith("asyncload."):
            continue
        other = home(name)
        meant = other == own or (own, other) in NEIGHBOURS
        if not meant and FLOORS[other] >= FLOORS[own]:
            wrong.append(f"line {line}: {own} (floor {FLOORS[own]}) imports {name}")
    assert not wrong


@pytest.mark.parametrize("path", modules(), ids=lambda path: str(path.relative_to(ROOT)))
def test_only_one_room_imports_tensorflow(path: Path) -> None:
    if room(path) in TENSORFLOW_ROOMS:
        return
    assert not [
        f"line {line}: {name}" for line, name in imports(path) if name.split(".")[0] in TENSORFLOW
    ]


def run(code: str) -> str:
    command = [sys.executable, "-c", code]
    return subprocess.run(command, check=True, capture_output=True, text=True).stdout


def test_import_loads_nothing_heavy() -> None:
    loaded = run("import asyncload, sys; print(*sys.modules)").split()
    tops = {name.split(".")[0] for name in loaded}
    heavy = {"tensorflow", "keras", "h5py", "numpy", "rich", "typer", "anyio", "asyncio"}
    assert not heavy & tops


def test_the_public_names_load_no_tensorflow() -> None:
    code = "import asyncload, sys; [getattr(asyncload, n) for n in asyncload.__all__]"
    loaded = run(f"{code}; print(*sys.modules)").split()
    tops = {name.split(".")[0] for name in loaded}
    assert not {"tensorflow", "keras", "h5py"} & tops


def test_workers_load_no_tensorflow(tmp_path: Path) -> None:
    script = tmp_path / "program.py"
    script.write_text(
        "import asyncio, sys\n"
        "import tensorflow\n"
        "from asyncload.workers import Workers\n"
        "async def main():\n"
        "    workers = Workers(processes=1)\n"
        "    try:\n"
        "        print(*await workers.run(lambda: sorted(__import__('sys').modules)))\n"
        "    finally:\n"
        "        await workers.aclose()\n"
        "asyncio.run(main())\n"
    )
    done = subprocess.run(
        [sys.executable, str(script)], check=True, capture_output=True, text=True, timeout=60
    )
    tops = {name.split(".")[0] for name in done.stdout.split()}
    assert "numpy" in tops
    assert not TENSORFLOW & tops


def test_import_is_quick() -> None:
    """Best of several, interleaved, so that a busy machine does not decide."""

    def seconds(code: str) -> float:
        begin = time.perf_counter()
        subprocess.run([sys.executable, "-c", code], check=True)
        return time.perf_counter() - begin

    runs = [(seconds("pass"), seconds("import asyncload")) for _ in range(7)]
    bare, loaded = (min(column) for column in zip(*runs, strict=True))
    assert loaded - bare < IMPORT_LIMIT
