"""The ``asyncload`` command: load, inspect, ls, fetch, cache, demo.

Errors end in exit code 1 and one line on standard error; ``--debug`` shows the traceback. With
``--json``, standard output holds one JSON document and nothing else. Each command is a module; they
share ``_command``.
"""

from __future__ import annotations

import os

from . import _cache, _files, _inspect, _load  # noqa: F401  each adds its commands
from ._command import app

__all__ = ["app", "main"]


def main() -> None:
    """Run the command that ``sys.argv`` names."""
    # Of TensorFlow's log, what is not an error says nothing about the load.
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
    app()
