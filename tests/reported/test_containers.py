"""A Loader's memory was three quarters of the machine's, whatever the container had."""

from __future__ import annotations

import logging
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import safetensors.numpy

import asyncload
from asyncload.cgroups import cpu_quota, memory_left

GIB = 1 << 30
UNLIMITED = str((1 << 63) - 4096)  # as version 1 has it

V2 = "41 31 0:38 {root} {mount} rw - cgroup2 cgroup2 rw\n"
V1 = "35 31 0:32 {root} {mount} rw,relatime shared:9 - cgroup cgroup rw,{controller}\n"


class Machine:
    """What ``/proc`` and the mounted hierarchies of a machine say."""

    def __init__(self, folder: Path) -> None:
        self.process, self.mount = folder / "proc", folder / "groups"
        self.process.mkdir()

    def say(self, mountinfo: str, cgroup: str, *, root: str = "/", controller: str = "") -> None:
        mount = mountinfo.format(root=root, mount=self.mount, controller=controller)
        (self.process / "mountinfo").write_text(f"31 23 0:28 / / rw - tmpfs tmpfs rw\n{mount}")
        (self.process / "cgroup").write_text(cgroup)

    def group(self, path: str = "", **files: str) -> None:
        (self.mount / path).mkdir(parents=True, exist_ok=True)
        for name, text in files.items():
            (self.mount / path / name.replace("__", ".")).write_text(text)


@pytest.fixture
def machine(tmp_path: Path) -> Machine:
    return Machine(tmp_path)


def test_version_2_counts_what_the_groups_above_use(machine: Machine) -> None:
    machine.say(V2, "0::/pod/one\n")
    machine.group(memory__stat="inactive_file 1\n")  # the top has no limit
    machine.group("pod", memory__max=f"{4 * GIB}\n", memory__current=f"{3 * GIB}\n")
    stat = f"anon 5\ninactive_file {GIB // 2}\n"
    limits = {"memory__max": "max\n", "memory__high": f"{2 * GIB}\n"}
    machine.group("pod/one", **limits, memory__current=f"{GIB}\n", memory__stat=stat)
    assert memory_left(machine.process) == GIB  # of the pod; this one has 1.5 GiB
    machine.group("pod", memory__max="max\n")
    assert memory_left(machine.process) == 2 * GIB - GIB // 2


def test_version_1(machine: Machine) -> None:
    machine.say(V1, "5:cpu,cpuacct:/a\n4:memory:/a\n0::/other\n", controller="memory")
    used = {"memory__usage_in_bytes": f"{GIB}\n", "memory__stat": f"total_inactive_file {GIB}\n"}
    machine.group("a", memory__limit_in_bytes=f"{3 * GIB}\n", **used)
    machine.group(memory__limit_in_bytes=UNLIMITED)
    assert memory_left(machine.process) == 3 * GIB


@pytest.mark.parametrize(
    ("root", "path"),
    [
        ("/docker/0123", "/docker/0123"),  # a container that sees the host's paths
        ("/", "/"),  # one that has a name space of its own
        ("/", "/../elsewhere"),
        ("/docker/0123", "/docker/01234"),
    ],
)
def test_what_is_mounted_may_be_a_part(machine: Machine, root: str, path: str) -> None:
    machine.say(V1, f"4:memory:{path}\n", root=root, controller="memory")
    machine.group(memory__limit_in_bytes=f"{GIB}\n", memory__usage_in_bytes="0\n")
    assert memory_left(machine.process) == GIB


def test_who_has_used_up_all_has_nothing_left(machine: Machine) -> None:
    machine.say(V2, "0::/\n")
    machine.group(memory__max="100\n", memory__current="200\n")
    assert memory_left(machine.process) == 0


@pytest.mark.parametrize("text", ["max\n", "", "-1\n", "a lot", "\x00"])
def test_what_is_no_limit(machine: Machine, text: str) -> None:
    machine.say(V2, "0::/\n")
    machine.group(memory__max=text, cpu__max=f"{text} 100000")
    assert memory_left(machine.process) is None
    assert cpu_quota(machine.process) is None


def test_no_groups(tmp_path: Path) -> None:
    assert memory_left(tmp_path) is None
    assert cpu_quota(tmp_path) is None


@pytest.mark.parametrize(("above", "own"), [("150000 100000", "max 100000"), ("max", "3000 2000")])
def test_the_quota_of_cpus(machine: Machine, above: str, own: str) -> None:
    machine.say(V2, "0::/pod/one\n")
    machine.group("pod", cpu__max=above)
    machine.group("pod/one", cpu__max=own)
    assert cpu_quota(machine.process) == 1.5


@pytest.mark.parametrize(("quota", "cpus"), [("50000\n", 0.5), ("-1\n", None), ("0\n", None)])
def test_the_quota_of_version_1(machine: Machine, quota: str, cpus: float | None) -> None:
    machine.say(V1, "4:cpu,cpuacct:/a\n", controller="cpu,cpuacct")
    machine.group("a", cpu__cfs_quota_us=quota, cpu__cfs_period_us="100000\n")
    assert cpu_quota(machine.process) == cpus


@pytest.fixture
def real_group() -> Iterator[Path]:
    """A group of this machine's own that may take 512 MiB."""
    lines = Path("/proc/self/cgroup").read_text().splitlines() if sys.platform == "linux" else []
    own = [line.split(":", 2)[2] for line in lines if line.split(":")[1] == "memory"]
    group = Path(f"/sys/fs/cgroup/memory{own[0] if own else ''}/asyncload-test-{os.getpid()}")
    try:
        group.mkdir()
        (group / "memory.limit_in_bytes").write_text(str(GIB // 2))
    except OSError:
        pytest.skip("groups cannot be made here")
    yield group
    group.rmdir()


def test_a_loader_counts_on_what_its_container_has(real_group: Path) -> None:
    code = (
        f"import asyncio, os; open({str(real_group / 'cgroup.procs')!r}, 'w').write('0')\n"
        "async def main():\n"
        "    import asyncload\n"
        "    async with asyncload.Loader() as loader:\n"
        "        print(loader.memory)\n"
        "asyncio.run(main())"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, check=True)
    assert 0 < int(done.stdout) <= GIB // 2 * 3 // 4


async def test_the_first_load_above_the_limit_is_logged(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    for name in ("small", "large", "next"):
        size = 1 << 10 if name == "small" else 2 << 20
        safetensors.numpy.save_file({"w": np.ones(size, "uint8")}, tmp_path / f"{name}.safetensors")
    async with asyncload.Loader(memory="1MiB") as loader:
        with caplog.at_level(logging.WARNING, "asyncload"):
            for name in ("small", "large", "next"):
                await loader.load_weights(tmp_path / f"{name}.safetensors")
    (text,) = [each.getMessage() for each in caplog.records if each.name == "asyncload"]
    assert "large.safetensors" in text
    assert "Loader(memory=)" in text
