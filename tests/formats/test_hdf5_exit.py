"""A failed walk leaves nothing for HDF5 to call back into when the interpreter is gone."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import h5py
import numpy as np

# The error is kept, as loggers and debuggers keep them, and with it every frame of the walk.
PROGRAM = """
import os, sys
from asyncload.errors import SourceChanged
from asyncload.formats._hdf5_walk import walk_file
from asyncload.interfaces import Bounds
from asyncload.manifest import file_version
status = os.stat(sys.argv[1])
try:
    walk_file(sys.argv[1], file_version(status), 0, status.st_size + 1000, "f", Bounds())
except SourceChanged as error:
    sys.kept = error
    print("kept")
"""


def test_a_program_that_kept_the_error_ends_well(tmp_path: Path) -> None:
    path = tmp_path / "f"
    with h5py.File(path, "w") as file:
        file["d"] = np.arange(1000.0)
    done = subprocess.run(
        [sys.executable, "-c", PROGRAM, str(path)],
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert (done.stdout, done.returncode) == ("kept\n", 0), done.stderr
