"""Whatever way a program ends, its workers end with it."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import textwrap
import time
from contextlib import suppress
from pathlib import Path

import psutil
import pytest

ROOT = Path(__file__).parents[2]
PATIENCE = 10.0  # seconds

# Starts two workers, says who they are, and does not close them.
BEGIN = """
import asyncio, os, sys, time
from asyncload.workers import Workers

async def use(workers):
    await asyncio.gather(*[workers.run(time.sleep, 0.05) for _ in range(4)])
    me = os.getpid()
    print(*[pid for pid in map(int, filter(str.isdigit, os.listdir("/proc"))) if child_of(pid, me)])
    print("ready", flush=True)

def child_of(pid, parent):
    try:
        with open(f"/proc/{pid}/stat") as file:
            return int(file.read().rpartition(")")[2].split()[1]) == parent
    except OSError:
        return False
"""

pytestmark = pytest.mark.skipif("sys.platform != 'linux'", reason="lists processes by /proc")


def start(code: str) -> tuple[subprocess.Popen[str], list[psutil.Process]]:
    """Run a program until it says that it is ready; return it and its children."""
    program = subprocess.Popen(
        [sys.executable, "-c", textwrap.dedent(BEGIN) + textwrap.dedent(code)],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        cwd=ROOT,
    )
    assert program.stdout is not None
    numbers = [int(number) for number in program.stdout.readline().split()]
    children = []
    for number in numbers:
        with suppress(psutil.NoSuchProcess):  # the program may be quick to end them
            children.append(psutil.Process(number))
    assert program.stdout.readline() == "ready\n", program.communicate()
    assert len(numbers) >= 2
    return program, children


def finish(program: subprocess.Popen[str], children: list[psutil.Process]) -> str:
    """Wait for the program and all its children; return what it complained about."""
    try:
        _, complaints = program.communicate(timeout=PATIENCE)
        _, alive = psutil.wait_procs(children, timeout=PATIENCE)
        assert not alive
    finally:
        program.kill()
        for child in children:
            with suppress(psutil.NoSuchProcess):
                child.kill()
    return complaints


def test_a_program_that_ends_without_closing() -> None:
    program, children = start("""
        workers = Workers(processes=2)
        asyncio.run(use(workers))
    """)
    assert finish(program, children) == ""
    assert program.returncode == 0


def test_a_program_that_ends_while_a_worker_works() -> None:
    program, children = start("""
        workers = Workers(processes=2)
        loop = asyncio.new_event_loop()
        loop.run_until_complete(use(workers))
        task = loop.create_task(workers.run(time.sleep, 60))
        loop.run_until_complete(asyncio.sleep(0.2))
        sys.exit(7)
    """)
    begin = time.perf_counter()
    finish(program, children)
    assert time.perf_counter() - begin < 5
    assert program.returncode == 7


def test_a_loop_closed_without_closing_the_workers() -> None:
    program, children = start("""
        async def main():
            await use(Workers(processes=2))
        asyncio.run(main())
        import gc
        gc.collect()
    """)
    assert finish(program, children) == ""


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGKILL])
@pytest.mark.parametrize("busy", [False, True])
def test_a_program_that_is_killed(number: signal.Signals, busy: bool) -> None:
    program, children = start(f"""
        async def main():
            workers = Workers(processes=2)
            await use(workers)
            await ({"workers.run(time.sleep, 60)" if busy else "asyncio.sleep(60)"})
        asyncio.run(main())
    """)
    time.sleep(0.1)
    os.kill(program.pid, number)
    finish(program, children)
    assert program.returncode != 0


def test_ctrl_c_reaches_the_whole_group_and_is_the_parent_s_matter() -> None:
    program, children = start("""
        async def main():
            workers = Workers(processes=2)
            await use(workers)
            try:
                await workers.run(time.sleep, 60)
            finally:
                await workers.aclose()
        asyncio.run(main())
    """)
    time.sleep(0.1)
    for child in children:
        child.send_signal(signal.SIGINT)
    os.kill(program.pid, signal.SIGINT)
    complaints = finish(program, children)
    assert complaints.rstrip().endswith("KeyboardInterrupt")
    assert "Process" not in complaints


def test_a_parent_that_has_imported_tensorflow_passes_it_on_to_no_worker() -> None:
    code = """
        import sys, asyncio
        sys.modules["tensorflow"] = type(sys)("tensorflow")
        from asyncload.workers import Workers

        def look():
            return [name for name in sys.modules if name.startswith(("tensorflow", "keras"))]

        async def main():
            workers = Workers(processes=1)
            print(await workers.run(look))
            await workers.aclose()

        if __name__ != "__main__":
            raise SystemExit("a worker has imported the program")
        asyncio.run(main())
    """
    done = subprocess.run(
        [sys.executable, "-c", textwrap.dedent(code)],
        capture_output=True,
        text=True,
        cwd=ROOT,
        timeout=60,
        check=False,
    )
    assert (done.stdout, done.stderr) == ("[]\n", "")
