"""Where worker processes import from: what the program chose, not what it happens to lie beside."""

from __future__ import annotations

import os
import sys
from collections.abc import Iterable

__all__ = ["safe_path"]


def safe_path() -> list[str]:
    """Return ``sys.path`` without the working folder and the folder of the program.

    Both stay where ``PYTHONPATH`` names them. A folder that this process itself has NumPy from is
    where the program's packages were installed, whatever else it is; it comes last.
    """
    if sys.flags.safe_path:
        return [entry for entry in sys.path if os.path.isabs(entry)]
    beside = _real([os.getcwd(), _program_folder()])
    chosen = _real(_python_path())
    absolute = [entry for entry in sys.path if os.path.isabs(entry)]
    safe = [entry for entry in absolute if _is_chosen(entry, beside, chosen)]
    home = _home_of_numpy()
    return [*safe, home] if os.path.realpath(home) in beside - chosen else safe


def _is_chosen(entry: str, beside: set[str], chosen: set[str]) -> bool:
    real = os.path.realpath(entry)
    return real in chosen or real not in beside


def _real(folders: Iterable[str]) -> set[str]:
    return {os.path.realpath(folder) for folder in folders}


def _program_folder() -> str:
    program = getattr(sys.modules.get("__main__"), "__file__", None)
    return os.path.dirname(os.path.abspath(program)) if program else os.getcwd()


def _python_path() -> list[str]:
    if sys.flags.ignore_environment:
        return []
    return [entry for entry in os.environ.get("PYTHONPATH", "").split(os.pathsep) if entry]


def _home_of_numpy() -> str:
    import numpy as np

    return os.path.dirname(os.path.dirname(os.path.abspath(np.__file__)))
