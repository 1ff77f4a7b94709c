"""What a worker process runs first, as a script: it finds the package, and nothing by accident.

Python's safe-path mode keeps the working folder and the folder of this file out of ``sys.path``.
The first message names what the parent imports from, and where the parent has this package. So no
file that lies in the working folder or beside the program is imported in the place of a module.
"""

import importlib.util
import json
import os
import socket
import sys


def boot(descriptor: int) -> None:
    """Listen to the parent at the other end of a socket, for as long as it is there."""
    os.set_inheritable(descriptor, False)
    line = socket.socket(fileno=descriptor)
    size = int.from_bytes(line.recv(8, socket.MSG_WAITALL), "big")
    told = json.loads(line.recv(size, socket.MSG_WAITALL))
    sys.path[:] = told["path"]
    package = told["package"]
    spec = importlib.util.spec_from_file_location(
        "asyncload", os.path.join(package, "__init__.py"), submodule_search_locations=[package]
    )
    assert spec is not None and spec.loader is not None  # noqa: S101, PT018  it is a file
    module = sys.modules["asyncload"] = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    from asyncload.workers._inside import serve

    serve(line, told["niceness"])


if __name__ == "__main__":
    boot(int(sys.argv[1]))
