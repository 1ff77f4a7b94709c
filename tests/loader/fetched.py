"""What the tests of `Loader.fetch` share: a file to fetch, and a look at what came."""

from __future__ import annotations

import random
from pathlib import Path
from typing import Any

from asyncload.sources import OWN
from tests.servers.fault_process import HttpFaults
from tests.servers.faults.settings import HttpFault
from tests.servers.plugin import MakeHttpFaults
from tests.servers.rgw import Rgw

__all__ = ["CONTENT", "MIB", "QUICK", "files", "s3", "serve"]

MIB = 1 << 20
CONTENT = random.Random(7).randbytes(6 * MIB)
QUICK = {"timeouts": {"connect": 1.0, "read": 0.5, "total": 5.0}, "part_size": MIB}


def files(folder: Path) -> dict[str, bytes]:
    """Return what is in a folder, but for the notes of fetches."""
    return {
        path.relative_to(folder).as_posix(): path.read_bytes()
        for path in folder.rglob("*")
        if path.is_file() and OWN not in path.parts
    }


def serve(http_faults: MakeHttpFaults, tmp_path: Path, *faults: HttpFault) -> HttpFaults:
    """Serve one file of 6 MiB, ``m.bin``."""
    root = tmp_path / "store"
    root.mkdir()
    (root / "m.bin").write_bytes(CONTENT)
    return http_faults(root, *faults)


def s3(rgw: Rgw) -> dict[str, Any]:
    return {
        "endpoint": rgw.endpoint,
        "region": rgw.region,
        "access_key_id": rgw.access_key,
        "secret_access_key": rgw.secret_key,
        **QUICK,
    }
