"""Servers end with who started them, and the checks for leaks let them be."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import psutil
import pytest

from tests.leaks import leaked, snapshot
from tests.servers import daemon
from tests.servers.azurite import Azurite
from tests.servers.rgw import Rgw
from tests.servers.web import Web

PROJECT = Path(__file__).parents[2]
PATIENCE = 10.0  # seconds
# Sessions of pytest inside a test need none of the plugins installed.
BARE = {**os.environ, "PYTHONPATH": str(PROJECT), "PYTEST_DISABLE_PLUGIN_AUTOLOAD": "1"}

# A session of pytest of its own, that waits to be ended.
WAITING = """
import time

pytest_plugins = ["tests.servers.plugin"]

def test_wait(web):
    open({mark!r}, "w").write(f"{{web._daemon.pid}} {{web.root}}")
    time.sleep(60)
"""

# Run where no server is found.
WITHOUT_SERVERS = """
import os, sys, pytest
from tests.servers import daemon
daemon._SYSTEM_PATH = os.environ["PATH"] = "/none"
sys.exit(pytest.main(sys.argv[1:]))
"""


def servers_of(program: list[str], mark: Path) -> tuple[subprocess.Popen[bytes], int, Path]:
    """Start ``program``; return it, the number of its nginx, and the folder that this serves."""
    running = subprocess.Popen(
        program, cwd=PROJECT, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL,
        env=BARE,
    )  # fmt: skip
    deadline = time.monotonic() + PATIENCE
    while not (mark.exists() and len(mark.read_text().split()) == 2):
        assert running.poll() is None, "it ended by itself"
        assert time.monotonic() < deadline
        time.sleep(0.02)
    number, root = mark.read_text().split()
    return running, int(number), Path(root)


def assert_ends(number: int) -> None:
    deadline = time.monotonic() + PATIENCE
    while psutil.pid_exists(number) and psutil.Process(number).status() != "zombie":
        assert time.monotonic() < deadline, "nginx runs on"
        time.sleep(0.02)


@pytest.mark.usefixtures("web")  # which skips where there is none
def test_ctrl_c_ends_servers_and_removes_their_files(tmp_path: Path) -> None:
    test = tmp_path / "test_waiting.py"
    test.write_text(WAITING.format(mark=str(tmp_path / "mark")))
    program = [sys.executable, "-m", "pytest", "-q", "-c", os.devnull, str(test)]
    running, number, root = servers_of(program, tmp_path / "mark")
    running.send_signal(signal.SIGINT)
    assert running.wait(PATIENCE) == pytest.ExitCode.INTERRUPTED
    assert_ends(number)
    assert not root.exists()


@pytest.mark.usefixtures("web")
@pytest.mark.skipif(sys.platform != "linux", reason="only Linux ends children with their parent")
def test_servers_end_with_a_killed_owner(tmp_path: Path) -> None:
    code = (
        "import sys, time; from pathlib import Path; from tests.servers.web import Web\n"
        "web = Web(); Path(sys.argv[1]).write_text(f'{web._daemon.pid} {web.root}')\n"
        "time.sleep(60)"
    )
    mark = tmp_path / "mark"
    running, number, root = servers_of([sys.executable, "-c", code, str(mark)], mark)
    running.kill()
    running.wait()
    assert_ends(number)
    assert root.parent.name.startswith("asyncload-web-")
    for path in sorted(root.parent.rglob("*"), reverse=True):
        path.rmdir() if path.is_dir() else path.unlink()
    root.parent.rmdir()


@pytest.mark.usefixtures("web")
def test_servers_started_late_are_no_leaks() -> None:
    before = snapshot()
    with Web():
        assert leaked(before, patience=0) == []
    assert leaked(before) == []


@pytest.mark.parametrize("server", [Azurite, Rgw, Web])
def test_what_is_missing_is_said(
    server: type[Azurite | Rgw | Web], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("tests.servers.azurite._PROGRAM", Path("/none"))
    monkeypatch.setattr(daemon, "_SYSTEM_PATH", "/none")
    monkeypatch.setenv("PATH", "/none")
    with pytest.raises(daemon.Unavailable, match=r"not installed: run tests/servers/install\.sh"):
        server()


@pytest.mark.parametrize(("ci", "outcome"), [("", "1 skipped"), ("true", "1 error")])
def test_without_servers_tests_skip_but_in_ci(tmp_path: Path, ci: str, outcome: str) -> None:
    (tmp_path / "test_one.py").write_text(
        'pytest_plugins = ["tests.servers.plugin"]\ndef test_one(web): pass\n'
    )
    ended = subprocess.run(
        [sys.executable, "-c", WITHOUT_SERVERS, "-q", "-rs", "-c", os.devnull, str(tmp_path)],
        cwd=PROJECT, capture_output=True, text=True, check=False, timeout=60,
        env={**BARE, "CI": ci},
    )  # fmt: skip
    assert outcome in ended.stdout
    assert "nginx is not installed" in ended.stdout


@pytest.mark.usefixtures("web")
def test_by_hand(tmp_path: Path) -> None:
    with subprocess.Popen(
        [sys.executable, "-m", "tests.servers", "web"],
        cwd=PROJECT, stdout=subprocess.PIPE, text=True,
    ) as running:  # fmt: skip
        assert running.stdout is not None
        variables = {}
        while (line := running.stdout.readline()).startswith("export "):
            name, _, value = line.removeprefix("export ").strip().partition("=")
            variables[name] = value
        assert Path(variables["WEB_ROOT"]).is_dir()
        running.terminate()
        assert running.wait(PATIENCE) == 0
    assert not Path(variables["WEB_ROOT"]).exists()
