"""``asyncload ls`` and ``asyncload fetch``, as a shell sees them."""

from __future__ import annotations

import json
import os
import random
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from asyncload import cli
from tests.servers.fault_process import HttpFaults
from tests.servers.faults.settings import HttpFault
from tests.servers.plugin import MakeHttpFaults

COMMAND = [sys.executable, "-c", "from asyncload.cli import main; main()"]
MIB = 1 << 20
SIZE = 40 * MIB  # five parts of a request's usual size
CONTENT = random.Random(9).randbytes(SIZE)


def run(*args: str | Path) -> Any:
    return CliRunner().invoke(cli.app, [str(arg) for arg in args])


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    path = tmp_path / "f"
    (path / "sub").mkdir(parents=True)
    (path / "a.bin").write_bytes(b"12345")
    (path / "sub" / "b.bin").write_bytes(b"1")
    (path / "odd\x1b[2J\n").touch()
    return path


def test_ls(folder: Path) -> None:
    assert run("ls", folder).stdout == "a.bin\nodd\\x1b[2J\\n\nsub/\n"
    assert run("ls", "-R", folder).stdout.splitlines()[-1] == "sub/b.bin"
    assert run("ls", folder / "a.bin").stdout == "a.bin\n"
    first, *_, last = run("ls", "-l", folder).stdout.splitlines()
    size, moment, version, name = first.split()
    assert (size, moment[-1], name) == ("5", "Z", "a.bin")
    assert len(version) > 10
    assert last.split() == ["-", "-", "-", "sub/"]


def test_ls_as_json(folder: Path) -> None:
    document = json.loads(run("ls", folder, "--json").stdout)
    by_name = {entry.pop("name"): entry for entry in document["entries"]}
    assert (by_name["a.bin"]["size"], by_name["a.bin"]["folder"]) == (5, False)
    assert by_name["sub/"] == {"size": None, "version": None, "modified": None, "folder": True}
    assert "odd\x1b[2J\n" in by_name


def test_an_empty_folder(tmp_path: Path) -> None:
    done = run("ls", tmp_path)
    assert (done.exit_code, done.stdout) == (0, "")


@pytest.mark.parametrize("arguments", [["ls", "none"], ["fetch", "none", "to"]])
def test_what_is_not_there(arguments: list[str], tmp_path: Path) -> None:
    done = run(arguments[0], tmp_path / arguments[1], *arguments[2:])
    assert done.exit_code == 1
    (line,) = done.stderr.splitlines()
    assert line.startswith(f"asyncload: {tmp_path}/none: ")


def test_fetch(folder: Path, tmp_path: Path) -> None:
    to = tmp_path / "to"
    done = run("fetch", folder, to)
    assert (done.exit_code, done.stdout[: len(str(to)) + 9]) == (0, f"{to}: 3 files")
    assert (to / "sub" / "b.bin").read_bytes() == b"1"
    document = json.loads(run("fetch", folder, to, "--json").stdout)
    assert (document["path"], len(document["files"])) == (str(to), 3)
    assert [file["fetched"] for file in document["files"]] == [0, 0, 0]
    (to / "a.bin").write_bytes(b"mine")
    done = run("fetch", folder, to)
    assert done.exit_code == 1
    assert "--force" in done.stderr
    assert run("fetch", folder, to, "--force").exit_code == 0
    assert (to / "a.bin").read_bytes() == b"12345"


def test_a_full_disk(http_faults: MakeHttpFaults, tmp_path: Path) -> None:
    """Files cannot grow beyond a limit, which the system says as it does that a disk is full."""
    uri = serve(http_faults, tmp_path)[1]
    command = f'ulimit -f 10000; exec "$@" fetch {uri} {tmp_path}/to'
    done = subprocess.run(
        ["bash", "-c", command, "bash", *COMMAND],
        capture_output=True, text=True, timeout=60, check=False,
    )  # fmt: skip
    assert (done.returncode, done.stdout) == (1, "")
    assert done.stderr.splitlines()[-1].startswith(f"asyncload: {tmp_path}/to/m.bin: could not")


# --- interrupted --------------------------------------------------------------------------


def serve(
    http_faults: MakeHttpFaults, tmp_path: Path, *faults: HttpFault
) -> tuple[HttpFaults, str]:
    (tmp_path / "store").mkdir()
    (tmp_path / "store" / "m.bin").write_bytes(CONTENT)
    server = http_faults(tmp_path / "store", *faults)
    return server, f"{server.endpoint}/m.bin"


@pytest.mark.parametrize(
    ("number", "code"),
    [(signal.SIGINT, 130), (signal.SIGTERM, 143), (signal.SIGKILL, -signal.SIGKILL)],
)
def test_an_interrupted_fetch_goes_on(
    number: int, code: int, http_faults: MakeHttpFaults, tmp_path: Path
) -> None:
    # The first request tells the format; of five parts, two come, and three begin to.
    server, uri = serve(http_faults, tmp_path, HttpFault(skip=3, rate=MIB / 2))
    to = tmp_path / "to"
    process = subprocess.Popen(
        [*COMMAND, "fetch", uri, str(to)], stdout=subprocess.PIPE, stderr=subprocess.PIPE
    )
    try:
        deadline = time.monotonic() + 30
        while not any(b'"done": [[' in path.read_bytes() for path in to.glob(".asyncload/*.json")):
            assert time.monotonic() < deadline
            time.sleep(0.02)
        process.send_signal(number)
        out, err = process.communicate(timeout=10)
    finally:
        process.kill()
    assert (process.returncode, out) == (code, b"")
    assert b"Traceback" not in err
    assert not (to / "m.bin").exists()
    server.set()
    server.forget()
    done = run("fetch", uri, to, "--json")
    assert json.loads(done.stdout)["files"][0]["fetched"] == 3 * 8 * MIB
    assert server.bytes_sent() < 3 * 8 * MIB + 100_000
    assert (to / "m.bin").read_bytes() == CONTENT


def test_the_bar(http_faults: MakeHttpFaults, tmp_path: Path) -> None:
    """On a terminal; the bytes of both fetches count, the first one's make no rate."""
    _, uri = serve(http_faults, tmp_path, HttpFault(skip=3, times=2, rate=10 * MIB))
    reader, writer = os.openpty()
    process = subprocess.Popen(
        [*COMMAND, "fetch", uri, str(tmp_path / "to")],
        stdout=subprocess.PIPE, stderr=writer,
        env={**os.environ, "COLUMNS": "120", "TERM": "xterm"},
    )  # fmt: skip
    os.close(writer)
    shown = b""
    try:
        while piece := os.read(reader, 1 << 16):
            shown += piece
    except OSError:  # as a terminal says that nobody writes any more
        pass
    finally:
        os.close(reader)
    out, _ = process.communicate(timeout=30)
    assert process.returncode == 0
    assert b"MB / 41.9 MB" in shown
    assert b"fetch" in shown
    assert out.startswith(f"{tmp_path}/to/m.bin: 1 file, 41.9 MB".encode())
