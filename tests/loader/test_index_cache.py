"""The index cache's folder: shared, bounded, and never an error."""

from __future__ import annotations

import hashlib
import os
import resource
import subprocess
import sys
from pathlib import Path

import pytest
from filelock import FileLock
from hypothesis import given
from hypothesis import strategies as st

from asyncload.cache_folder import UNFINISHED, surplus
from asyncload.loader import IndexCache, Kept
from asyncload.loader._index_entry import ENTRY_LIMIT


def digest(name: str) -> bytes:
    return hashlib.sha256(name.encode()).digest()


def path_of(cache: IndexCache, name: str) -> Path:
    return cache.folder / f"{digest(name).hex()}.index"


def age(cache: IndexCache, name: str, seconds: int) -> None:
    then = path_of(cache, name).stat().st_mtime_ns - seconds * 10**9
    os.utime(path_of(cache, name), ns=(then, then))


def names(folder: Path) -> set[str]:
    return {path.name for path in folder.iterdir()}


@pytest.fixture
def cache(tmp_path: Path) -> IndexCache:
    return IndexCache(tmp_path / "cache" / "index", limit=1000)


def test_what_is_written_is_read(cache: IndexCache) -> None:
    assert cache.read(digest("a")) is None
    cache.write(digest("a"), b"first")
    cache.write(digest("a"), b"second")
    assert cache.read(digest("a")) == b"second"
    assert cache.read(digest("b")) is None


def test_it_is_the_users_alone(cache: IndexCache) -> None:
    cache.write(digest("a"), b"data")
    assert cache.folder.stat().st_mode & 0o777 == 0o700
    assert path_of(cache, "a").stat().st_mode & 0o777 == 0o600
    assert names(cache.folder) == {path_of(cache, "a").name}


def test_by_default_it_is_in_the_users_cache_directory(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    assert IndexCache().folder == tmp_path / "asyncload" / "index"
    assert not list(tmp_path.iterdir())


def test_without_a_home_nothing_is_written(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.chdir(tmp_path)
    cache = IndexCache()
    cache._folder = Path("~/.cache/asyncload/index")  # what platformdirs says then
    cache.write(digest("a"), b"data")
    assert not list(tmp_path.iterdir())


def test_the_longest_unused_goes_first(cache: IndexCache) -> None:
    for seconds, name in ((30, "a"), (20, "b"), (10, "c")):
        cache.write(digest(name), bytes(300))
        age(cache, name, seconds)
    cache.read(digest("a"))
    cache.write(digest("d"), bytes(300))
    assert cache.read(digest("b")) is None
    assert all(cache.read(digest(name)) for name in "acd")
    assert sum(file.nbytes for file in cache.files()) <= 1000


def test_what_another_process_evicts_is_left_to_it(cache: IndexCache) -> None:
    cache.write(digest("a"), bytes(900))
    with FileLock(cache.folder / ".lock"):
        cache.write(digest("b"), bytes(900))
        assert len(cache.files()) == 2
    cache.write(digest("c"), bytes(900))
    assert [file.path for file in cache.files()] == [str(path_of(cache, "c"))]


def test_one_that_is_too_large_is_not_kept(cache: IndexCache) -> None:
    cache.write(digest("a"), bytes(ENTRY_LIMIT + 1))
    assert cache.files() == []


FILES = st.lists(st.builds(Kept, st.text(), st.integers(0, 100), st.integers(0, 20)))


@given(FILES, st.integers(0, 500))
def test_surplus_leaves_the_latest_that_fit(files: list[Kept], limit: int) -> None:
    gone = surplus(files, limit)
    left = list(files)
    for file in gone:
        left.remove(file)
    assert sum(file.nbytes for file in left) <= limit
    if gone:
        assert max(file.used for file in gone) <= min((f.used for f in left), default=20)
        newest = max(gone, key=lambda file: file.used)
        assert sum(file.nbytes for file in left) + newest.nbytes > limit


def test_clear_removes_entries_and_nothing_else(cache: IndexCache) -> None:
    cache.write(digest("a"), b"data")
    unfinished = cache.folder / f"{'0' * 64}.indexx1y2.unfinished"
    unfinished.write_bytes(b"left by a process that was killed")
    (cache.folder / "thesis.index").write_bytes(b"not ours")
    assert sum(file.nbytes for file in cache.files()) == 37
    assert len(cache.clear()) == 2
    assert cache.clear() == []
    assert names(cache.folder) == {"thesis.index"}


def test_clear_where_nothing_is(cache: IndexCache) -> None:
    assert cache.clear() == []
    assert not cache.folder.exists()


def test_a_link_in_its_place_is_removed_unread(cache: IndexCache, tmp_path: Path) -> None:
    secret = tmp_path / "secret"
    secret.write_bytes(b"secret")
    cache.folder.mkdir(parents=True)
    path_of(cache, "a").symlink_to(secret)
    assert cache.read(digest("a")) is None
    assert not path_of(cache, "a").is_symlink()
    assert secret.read_bytes() == b"secret"


def test_a_pipe_in_its_place_does_not_hang(cache: IndexCache) -> None:
    cache.folder.mkdir(parents=True)
    os.mkfifo(path_of(cache, "a"))
    assert cache.read(digest("a")) is None
    assert names(cache.folder) == set()


def test_a_folder_in_its_place_is_a_miss(cache: IndexCache) -> None:
    path_of(cache, "a").mkdir(parents=True)
    assert cache.read(digest("a")) is None
    cache.write(digest("a"), b"data")
    assert cache.read(digest("a")) is None
    assert names(cache.folder) == {path_of(cache, "a").name}


def test_what_grew_too_large_is_removed(cache: IndexCache) -> None:
    cache.folder.mkdir(parents=True)
    with path_of(cache, "a").open("wb") as file:
        file.truncate(ENTRY_LIMIT + 1)
    assert cache.read(digest("a")) is None
    assert names(cache.folder) == set()


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can give files away")
def test_what_belongs_to_another_user_is_not_believed(cache: IndexCache) -> None:
    cache.write(digest("a"), b"data")
    os.chown(path_of(cache, "a"), 12345, -1)
    assert cache.read(digest("a")) is None


def test_a_folder_that_cannot_be_made_is_no_error(tmp_path: Path) -> None:
    (tmp_path / "file").write_bytes(b"")
    cache = IndexCache(tmp_path / "file" / "index")
    cache.write(digest("a"), b"data")
    assert cache.read(digest("a")) is None
    assert cache.files() == cache.clear() == []


def test_a_full_disk_is_no_error_and_leaves_nothing(cache: IndexCache) -> None:
    cache.write(digest("b"), b"data")
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (500, hard))  # the system writes 500 bytes of 900
    try:
        cache.write(digest("a"), bytes(900))
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    assert names(cache.folder) == {path_of(cache, "b").name}


PROGRAM = """
import hashlib, random, sys
from asyncload.loader import IndexCache

cache, hits = IndexCache(sys.argv[1], limit=200_000), 0
for _ in range(400):
    digest = hashlib.sha256(bytes([random.randrange(20)])).digest()
    data = cache.read(digest)
    if data is not None:
        hits += 1
        assert data[:32] == digest and data[32:] == data[32:33] * (len(data) - 32), "torn"
    cache.write(digest, digest + random.randbytes(1) * random.randrange(1, 50_000))
assert hits
print(hits)
"""


def test_two_processes_share_it(tmp_path: Path) -> None:
    programs = [
        subprocess.Popen(
            [sys.executable, "-c", PROGRAM, str(tmp_path)],
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        for _ in range(2)
    ]
    for program in programs:
        _, errors = program.communicate(timeout=60)
        assert program.returncode == 0, errors
    cache = IndexCache(tmp_path, limit=200_000)
    cache.write(digest("last"), b"")  # both may have left what is too much to the other
    assert sum(file.nbytes for file in cache.files()) <= 200_000
    assert not [name for name in names(tmp_path) if name.endswith(UNFINISHED)]
