"""No file of the working folder or beside the program is imported in a worker, by chance or not."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path

import h5py
import numpy as np
import pytest

PATIENCE = 60  # seconds

# What workers import, what they once did, and what Python itself looks for as it starts.
NAMES = (
    *("loky", "pickle", "numpy", "h5py", "isal", "cloudpickle", "asyncload", "anyio"),
    *("json", "socket", "struct", "subprocess", "_winapi", "sitecustomize", "usercustomize"),
)
PROGRAM = """
import asyncio, sys
import asyncload
print(len(asyncio.run(asyncload.load_weights(sys.argv[1]))))
"""


@pytest.fixture
def weights(tmp_path: Path) -> Path:
    path = tmp_path / "w.h5"
    with h5py.File(path, "w") as file:
        file.create_dataset("a", data=np.arange(1000.0), compression="gzip")
    return path


def plant(folder: Path, names: tuple[str, ...]) -> None:
    folder.mkdir(exist_ok=True)
    for name in names:
        (folder / f"{name}.py").write_text(f"open({str(folder / 'ran')!r}, 'a').write({name!r})\n")


def run(
    command: list[str], folder: Path, extra: Mapping[str, str] | None = None
) -> subprocess.CompletedProcess[str]:
    environment = {**os.environ, "XDG_CACHE_HOME": str(folder / "cache"), **(extra or {})}
    return subprocess.run(
        [sys.executable, *command],
        cwd=folder,
        env=environment,
        capture_output=True,
        text=True,
        timeout=PATIENCE,
        check=False,
    )


def test_the_command_in_a_folder_of_strangers(weights: Path, tmp_path: Path) -> None:
    folder = tmp_path / "downloads"
    plant(folder, NAMES)
    command = "import sys; from asyncload.cli import main; sys.argv[0] = 'asyncload'; main()"
    # As the installed script, which has no working folder in its path either.
    done = run(["-P", "-c", command, "load", "--weights", str(weights)], folder)
    assert done.returncode == 0, done.stderr
    assert not (folder / "ran").exists()


def test_a_program_that_is_run_in_a_folder_of_strangers(weights: Path, tmp_path: Path) -> None:
    folder = tmp_path / "downloads"
    plant(folder, NAMES)
    (tmp_path / "program.py").write_text(PROGRAM)
    done = run([str(tmp_path / "program.py"), str(weights)], folder)
    assert (done.stdout, done.stderr) == ("1\n", "")
    assert not (folder / "ran").exists()


def test_a_program_beside_strangers(weights: Path, tmp_path: Path) -> None:
    """What the program itself imports is its own affair; a worker imports h5py, and it does not."""
    folder = tmp_path / "program"
    plant(folder, ("h5py", "loky", "_winapi"))
    (folder / "program.py").write_text(PROGRAM)
    done = run([str(folder / "program.py"), str(weights)], tmp_path)
    assert (done.stdout, done.stderr) == ("1\n", "")
    assert not (folder / "ran").exists()


def test_a_user_s_function_is_imported_from_beside_the_program(
    weights: Path, tmp_path: Path
) -> None:
    folder = tmp_path / "program"
    plant(folder, ("h5py", "loky", "_winapi"))
    (folder / "mine.py").write_text(
        "import numpy as np\ndef decode(buffer): return {'n': np.array(len(buffer))}\n"
    )
    (folder / "program.py").write_text(
        "import asyncio, sys\nimport asyncload, mine\n"
        "async def main():\n"
        "    async for part in asyncload.map_parts(mine.decode, sys.argv[1:]):\n"
        "        print(part.unwrap()['n'])\n"
        "    print(len(await asyncload.load_weights(sys.argv[1])))\n"
        "asyncio.run(main())\n"
    )
    done = run([str(folder / "program.py"), str(weights)], tmp_path)
    assert (done.stdout, done.stderr) == (f"{weights.stat().st_size}\n1\n", "")
    assert not (folder / "ran").exists()


def test_python_path_holds_for_workers(weights: Path, tmp_path: Path) -> None:
    """Who names a folder there wants what is in it, be it the working folder."""
    folder = tmp_path / "chosen"
    folder.mkdir()
    (folder / "h5py.py").write_text(
        f"open({str(folder / 'ran')!r}, 'a').write('h5py')\n"
        "import sys, importlib\n"
        f"sys.path.remove({str(folder)!r}); del sys.modules['h5py']\n"
        "sys.modules['h5py'] = importlib.import_module('h5py')\n"
    )
    before = os.environ.get("PYTHONPATH")
    path = os.pathsep.join([str(folder), *([before] if before else [])])
    (tmp_path / "program.py").write_text(PROGRAM)
    done = run([str(tmp_path / "program.py"), str(weights)], folder, {"PYTHONPATH": path})
    assert (done.stdout, done.stderr) == ("1\n", "")
    assert (folder / "ran").read_text() == "h5py"
