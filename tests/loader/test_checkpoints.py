"""Checkpoints through the whole house: equal to what TensorFlow reads, or a typed error, soon."""

from __future__ import annotations

import asyncio
import os
import shutil
import threading
import time
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from typing import Any

import keras
import numpy as np
import pytest
import tensorflow as tf

import asyncload
from asyncload import (
    AsyncloadError,
    Corrupt,
    FormatError,
    NotFound,
    TooLarge,
    UnknownFormat,
    Unsafe,
)
from asyncload.codecs import crc32c
from asyncload.manifest import Partitioned
from asyncload.memory import ALIGNMENT
from asyncload.pipeline import _verify
from asyncload.sources import LocalReader, forget_memory, put_memory
from tests.formats import checkpoints
from tests.formats.checkpoints import GRAPH, Array
from tests.formats.tables import HEADER, NAME, bundle, entry, field, shape

SOON = 1.0  # seconds
MIB = 1 << 20


def assert_equal(found: asyncload.Weights, expected: dict[str, Array]) -> None:
    assert set(found) == set(expected)
    for name, array in expected.items():
        assert found[name].dtype == array.dtype, name
        assert found[name].shape == array.shape, name
        assert not found[name].flags.writeable
        if array.dtype.hasobject:
            assert found[name].tolist() == array.tolist()
            continue
        assert found[name].tobytes() == array.tobytes(), name
        if array.size:
            assert found[name].__array_interface__["data"][0] % ALIGNMENT == 0


def make_object_based(folder: Path) -> Path:
    inputs = keras.Input((4,))
    model = keras.Model(inputs, keras.layers.Dense(3)(inputs))
    model.compile(keras.optimizers.Adam(), "mse")
    model.fit(np.ones((2, 4)), np.ones((2, 3)), verbose=0)
    checkpoint = tf.train.Checkpoint(model=model, step=tf.Variable(7, dtype=tf.int64))
    return Path(checkpoint.save(str(folder / "object")))


def make_name_based(folder: Path) -> Path:
    with tf.Graph().as_default(), tf.compat.v1.Session() as session:
        partitioner = tf.compat.v1.fixed_size_partitioner(3)
        with tf.compat.v1.variable_scope("scope", partitioner=partitioner):
            tf.compat.v1.get_variable("table", (8, 5))
        tf.compat.v1.get_variable("plain", (2, 2), tf.float64)
        session.run(tf.compat.v1.global_variables_initializer())
        saver = tf.compat.v1.train.Saver()
        return Path(saver.save(session, str(folder / "named"), global_step=3))


def make_large(folder: Path) -> Path:
    chance = np.random.default_rng(0)
    table = chance.random((9 * MIB // 8, 8), np.float32)  # 36 MiB: in several reads
    middle = len(table) // 3
    return checkpoints.save_slices(
        folder / "large",
        [
            ("before", "", np.arange(3)),
            ("large", "", chance.random(5 * MIB, np.float32)),
            ("rows", f"{len(table)} 8 0,{middle}:-", table[:middle]),
            ("rows", f"{len(table)} 8 {middle},{len(table) - middle}:-", table[middle:]),
            ("text", "", tf.constant(["a" * (3 * MIB), "b"])),
        ],
    )


def make_parts(folder: Path) -> Path:
    _, slices = checkpoints.parts_of_everything()
    return checkpoints.save_shards(
        folder / "parts", slices[::3], slices[1::3], [*slices[2::3], ("more", "", np.ones(3))]
    )


MAKERS: dict[str, Callable[[Path], Path]] = {
    "dtypes": lambda folder: checkpoints.save(folder / "c", checkpoints.every_dtype()),
    "shapes": lambda folder: checkpoints.save(folder / "c", checkpoints.every_shape()),
    "strings": lambda folder: checkpoints.save(folder / "c", checkpoints.every_string()),
    "parts": make_parts,
    "objects": make_object_based,
    "names": make_name_based,
    "large": make_large,
}


@pytest.mark.parametrize("kind", MAKERS)
async def test_equals_what_tensorflow_reads(
    kind: str, loader: asyncload.Loader, tmp_path: Path
) -> None:
    prefix = MAKERS[kind](tmp_path)
    expected = checkpoints.stock(prefix)
    for verify in (True, False):
        assert_equal(await loader.load_weights(prefix, verify=verify), expected)
    weights = await loader.load(prefix)
    assert isinstance(weights, asyncload.Weights)
    assert weights.manifest.format == "checkpoint"
    assert_equal(weights, expected)
    streamed = [name async for name, _ in loader.stream(prefix)]
    assert sorted(streamed) == sorted(expected)


async def test_the_object_graph_is_a_document(loader: asyncload.Loader, tmp_path: Path) -> None:
    prefix = make_object_based(tmp_path)
    stock = tf.train.load_checkpoint(str(prefix))
    manifest = await loader.inspect(prefix)
    assert manifest.documents == {GRAPH: stock.get_tensor(GRAPH)}
    assert GRAPH not in manifest.tensors
    assert asyncload.Manifest.from_json(manifest.to_json()) == manifest
    assert not (await loader.inspect(make_name_based(tmp_path))).documents


# --- how a URI names it ------------------------------------------------------------------


async def test_a_folder_names_the_latest(loader: asyncload.Loader, tmp_path: Path) -> None:
    variable = tf.Variable(1.0)
    folder = tmp_path / "rün (1)"
    manager = tf.train.CheckpointManager(tf.train.Checkpoint(v=variable), str(folder), 3)
    for value in (2.0, 3.0):
        variable.assign(value)
        manager.save()
    name = "v/.ATTRIBUTES/VARIABLE_VALUE"
    for uri in (
        folder,
        f"{folder}/",
        f"file://{folder}",
        folder / "ckpt-2",
        folder / "ckpt-2.index",
    ):
        assert (await asyncload.load_weights(uri))[name] == 3.0
    assert (await loader.load_weights(folder / "ckpt-1"))[name] == 2.0
    await asyncload.aclose()


async def test_a_folder_in_the_working_folder(
    loader: asyncload.Loader, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    checkpoints.save(tmp_path / "run" / "c", {"a": np.ones(2)})
    checkpoints.state(tmp_path / "run", "c")
    for uri in ("run", "run/c", "./run/c.index"):
        assert list(await loader.load_weights(uri)) == ["a"]
    monkeypatch.chdir(tmp_path / "run")
    for uri in (".", "c", "c.index"):
        assert list(await loader.load_weights(uri)) == ["a"]


async def test_in_memory(loader: asyncload.Loader, tmp_path: Path) -> None:
    make_parts(tmp_path)
    checkpoints.state(tmp_path, "parts")
    files = {path.name: path.read_bytes() for path in tmp_path.iterdir()}
    expected = checkpoints.stock(tmp_path / "parts")
    try:
        folder = put_memory("checkpoints/run", files)
        for uri in (folder, f"{folder}/parts", f"{folder}/parts.index"):
            assert_equal(await loader.load_weights(uri), expected)
    finally:
        forget_memory("checkpoints")


@pytest.mark.parametrize(
    ("text", "kind"),
    [
        ('model_checkpoint_path: "c"', None),
        ("model_checkpoint_path:'\\143'\n", None),
        ('all_model_checkpoint_paths: "x"\n  model_checkpoint_path: "./c"\n', None),
        ('model_checkpoint_path: "{folder}/c"', None),
        ('model_checkpoint_path: "d"', NotFound),
        ('model_checkpoint_path: "../c"', Unsafe),
        ('model_checkpoint_path: "sub/c"', NotFound),
        ('model_checkpoint_path: "/c"', Unsafe),
        ('model_checkpoint_path: "{folder}/../c"', Unsafe),
        ('model_checkpoint_path: "/elsewhere/c"', Unsafe),
        ('model_checkpoint_path: ".."', Unsafe),
        ('model_checkpoint_path: ""', Unsafe),
        ('model_checkpoint_path: "a\\\\b"', Unsafe),
        ('model_checkpoint_path: "a\\000b"', Unsafe),
        ('model_checkpoint_path: "\\377"', Corrupt),
        ('model_checkpoint_path: "c', Corrupt),
        ("model_checkpoint_path: c", Corrupt),
        ("", Corrupt),
    ],
)
async def test_what_a_state_file_may_say(
    text: str, kind: type[AsyncloadError] | None, loader: asyncload.Loader, tmp_path: Path
) -> None:
    folder = tmp_path / "run"
    checkpoints.save(folder / "c", {"a": np.ones(2)})
    (folder / "checkpoint").write_text(text.replace("{folder}", str(folder)))
    if kind is None:
        assert list(await loader.load_weights(folder)) == ["a"]
    else:
        await fails(loader, folder, kind)


async def test_folders_and_prefixes_of_nothing(loader: asyncload.Loader, tmp_path: Path) -> None:
    error = await fails(loader, tmp_path, UnknownFormat)
    assert "'checkpoint'" in str(error)
    checkpoints.save(tmp_path / "ckpt-7", {"a": np.ones(2)})
    assert "ckpt-7" in str(await fails(loader, tmp_path, UnknownFormat))
    await fails(loader, tmp_path / "ckpt", NotFound)
    await fails(loader, tmp_path / "ckpt-7.data", NotFound)


# --- bad input ---------------------------------------------------------------------------


async def fails(
    loader: asyncload.Loader, uri: Path, *kinds: type[AsyncloadError], says: str | None = None
) -> AsyncloadError:
    begin = time.perf_counter()
    with pytest.raises(kinds, match=says) as caught:
        await loader.load_weights(uri)
    assert time.perf_counter() - begin < SOON
    error = caught.value
    assert isinstance(error, AsyncloadError)
    assert os.path.basename(uri) in str(error)
    assert loader._resources.budget.held == 0
    return error


@pytest.mark.parametrize("kind", ["dtypes", "strings", "parts", "large"])
async def test_a_wrong_bit_names_tensor_and_shard(kind: str, tmp_path: Path) -> None:
    prefix = MAKERS[kind](tmp_path)
    ready: list[str] = []
    observer = lambda event: ready.append(getattr(event, "name", ""))  # noqa: E731
    async with asyncload.Loader(processes=1, observer=observer) as loader:
        manifest = await loader.inspect(prefix)
        entries = [each for each in manifest.tensors.values() if each.length]
        for one in [entries[0], entries[len(entries) // 2], entries[-1]]:
            shard = tmp_path / manifest.files[one.file].name
            flip(shard, middle(one))
            ready.clear()
            with pytest.raises(Corrupt, match=r"CRC32C|checksum") as caught:
                await loader.load_weights(prefix)
            assert (caught.value.tensor, caught.value.uri) == (one.name, str(shard))
            assert one.name not in ready, "it was handed over"
            streamed: list[str] = []
            with pytest.raises(Corrupt):
                await collect(loader.stream(prefix), streamed)
            assert one.name not in streamed
            flip(shard, middle(one))
        assert await loader.load_weights(prefix)


async def collect(tensors: AsyncIterator[tuple[str, Array]], names: list[str]) -> None:
    async for name, _ in tensors:
        names.append(name)


def middle(entry: asyncload.TensorEntry) -> int:
    """Return a byte in the middle of what is stored first of a tensor."""
    stored = entry.encoding.parts[0] if isinstance(entry.encoding, Partitioned) else entry
    return stored.offset + stored.length // 2


def flip(path: Path, at: int) -> None:
    with path.open("r+b") as file:
        file.seek(at)
        byte = file.read(1)[0]
        file.seek(at)
        file.write(bytes([byte ^ 0x10]))


async def test_checksums_are_taken_off_the_loop_beside_reads(
    loader: asyncload.Loader, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    prefix = make_large(tmp_path)
    summed: list[int] = []
    reading: list[bool] = []
    under_way = 0

    def sum_up(content: memoryview) -> int:
        assert threading.current_thread() is not threading.main_thread()
        summed.append(content.nbytes)
        reading.append(under_way > 0)
        return crc32c(content)

    async def read_into(reader: LocalReader, *args: Any) -> None:
        nonlocal under_way
        under_way += 1
        try:
            await plain(reader, *args)
        finally:
            under_way -= 1

    plain = LocalReader.read_into
    monkeypatch.setattr(LocalReader, "read_into", read_into)
    monkeypatch.setattr(_verify, "crc32c", sum_up)
    for _ in range(10):  # a busy machine may run one thing after the other
        summed.clear()
        weights = await loader.load_weights(prefix)
        raw = sum(array.nbytes for array in weights.values() if not array.dtype.hasobject)
        assert sum(summed) == raw
        if any(reading):
            break
    assert any(reading), "no read was under way meanwhile"
    summed.clear()
    await loader.load_weights(prefix, verify=False)
    assert not summed


async def test_without_verify_wrong_bits_are_taken_as_they_are(
    loader: asyncload.Loader, tmp_path: Path
) -> None:
    checkpoints.save(tmp_path / "c", {"a": np.zeros(4, "uint8"), "s": tf.constant(["ab"])})
    flip(tmp_path / "c.data-00000-of-00001", 1)
    await fails(loader, tmp_path / "c", Corrupt, says="'a'")
    with pytest.raises(Corrupt):
        await loader.load(tmp_path / "c")
    for weights in (
        await loader.load_weights(tmp_path / "c", verify=False),
        await loader.load(tmp_path / "c", verify=False),
    ):
        assert weights["a"].tolist() == [0, 16, 0, 0]
        assert weights["s"].tolist() == [b"ab"]


async def test_shards_missing_and_short(loader: asyncload.Loader, tmp_path: Path) -> None:
    prefix = make_parts(tmp_path)
    shard = tmp_path / "parts.data-00001-of-00003"
    whole = shard.read_bytes()
    for size in (0, 1, len(whole) // 2, len(whole) - 1):
        shard.write_bytes(whole[:size])
        error = await fails(loader, prefix, Corrupt, says=f"which has {size}")
        assert error.uri == str(shard)
        assert error.tensor
    shard.unlink()
    error = await fails(loader, prefix, NotFound, says="parts.data-00001-of-00003")
    assert isinstance(error, FileNotFoundError)
    shard.mkdir()
    await fails(loader, prefix, asyncload.SourceError, says="folder")
    shutil.rmtree(shard)


async def test_a_shard_that_nothing_is_in_need_not_be_there(
    loader: asyncload.Loader, tmp_path: Path
) -> None:
    files = bundle({b"a": entry()}, header=field(1, 2))
    for name, content in files.items():
        (tmp_path / name.replace("of-00001", "of-00002")).write_bytes(content)
    assert (await loader.load_weights(tmp_path / NAME))["a"].tolist() == [0, 0]


async def test_truncated_at_every_tenth(loader: asyncload.Loader, tmp_path: Path) -> None:
    prefix = make_object_based(tmp_path)
    index = prefix.with_name(f"{prefix.name}.index")
    whole = index.read_bytes()
    for size in [*range(0, len(whole), len(whole) // 10), len(whole) - 1]:
        index.write_bytes(whole[:size])
        await fails(loader, prefix, Corrupt)


SLICE = field(7, field(1, field(1, 0) + field(2, 1)))  # elements 0:1 of one dimension
TWICE = entry(offset=0, length=0, more=SLICE + SLICE)


@pytest.mark.parametrize(
    ("entries", "kind", "says"),
    [
        ({b"t": entry(dtype=21)}, FormatError, "DT_VARIANT"),
        ({b"t": entry(dtype=20)}, FormatError, "DT_RESOURCE"),
        ({b"t": entry(dtype=99)}, FormatError, "99"),
        ({b"t": entry(length=12)}, Corrupt, "takes 8 bytes, but 12"),
        ({b"t": entry(offset=60)}, Corrupt, "60 to 68"),
        ({b"t": entry(offset=-8)}, Corrupt, "-8 to 0"),
        ({b"t": entry(offset=(1 << 63) - 1)}, Corrupt, "which has 64"),
        ({b"t": entry(sizes=(-2, -1))}, Corrupt, "negative"),
        ({b"t": entry(sizes=(1 << 40, 1 << 40), length=0)}, TooLarge, "too large"),
        ({b"t": entry(sizes=(1 << 40, 0, 1 << 40), length=0)}, TooLarge, "too large"),
        ({b"t": entry(sizes=(1,) * 70, length=4)}, TooLarge, "dimensions"),
        ({b"t": entry(sizes=(-1,) * 300, length=4)}, Corrupt, "300 dimensions"),
        ({b"t": entry(sizes=(1 << 40,), length=1 << 42)}, Corrupt, "which has 64"),
        ({b"t": entry(dtype=7, sizes=(1 << 40,))}, Corrupt, "at least"),
        ({b"t": entry(shard=1)}, Corrupt, "shard 1 of 1"),
        ({b"s": entry(), b"t": entry(offset=4)}, Corrupt, "within the tensor before"),
        ({b"t": entry(more=b"\x08\xff\xff")}, Corrupt, "varint"),
        ({b"t": entry(more=b"\x12\xff\x01")}, Corrupt, "truncated"),
        ({b"t": entry(more=field(2, field(3, 1)))}, Corrupt, "unknown rank"),
        ({b"t": TWICE}, Corrupt, "twice"),
        ({b"t": entry(more=SLICE)}, Corrupt, "not in the index"),
        ({b"t": entry(more=field(7, b""))}, Corrupt, "dimensions"),
        ({b"t": entry(more=field(7, field(1, field(1, 9) + field(2, 1))))}, Corrupt, "outside"),
        ({b"\0t": entry()}, Corrupt, "no tensor refers to"),
        ({b"\xff": entry()}, Corrupt, "no UTF-8"),
        ({GRAPH.encode(): entry()}, Corrupt, "expected one string"),
        ({b"t": entry(dtype=7, sizes=(), length=4)}, Corrupt, "at least 5"),
    ],
    ids=range(27),
)
async def test_indexes_that_contradict(
    entries: dict[bytes, bytes],
    kind: type[AsyncloadError],
    says: str,
    loader: asyncload.Loader,
    tmp_path: Path,
) -> None:
    write(tmp_path, bundle(entries))
    error = await fails(loader, tmp_path / NAME, kind, says=says)
    assert error.tensor in {*(key.decode(errors="replace") for key in entries), None}


@pytest.mark.parametrize(
    ("header", "kind", "says"),
    [
        (field(1, 1) + field(2, 1), FormatError, "big endian"),
        (field(1, 1) + field(3, field(1, 9) + field(2, 9)), FormatError, "version 9"),
        (b"", Corrupt, "0 data files"),
        (field(1, -1), Corrupt, "-1 data files"),
        (b"\x08", Corrupt, "varint"),
        (HEADER + b"\x0b", Corrupt, "wire type"),
    ],
)
async def test_headers_that_are_refused(
    header: bytes,
    kind: type[AsyncloadError],
    says: str,
    loader: asyncload.Loader,
    tmp_path: Path,
) -> None:
    write(tmp_path, bundle({b"t": entry()}, header=header))
    await fails(loader, tmp_path / NAME, kind, says=says)


def write(folder: Path, files: dict[str, bytes]) -> None:
    for name, content in files.items():
        (folder / name).write_bytes(content)


async def test_parts_that_overlap_or_leave_something_out(
    loader: asyncload.Loader, tmp_path: Path
) -> None:
    half = np.ones((2, 3), np.float32)
    checkpoints.save_slices(tmp_path / "gap", [("t", "5 3 0,2:-", half), ("t", "5 3 3,2:-", half)])
    await fails(loader, tmp_path / "gap", Corrupt, says="leave some of it out")
    # What TensorFlow refuses to write: shards that disagree.
    checkpoints.save_shards(
        tmp_path / "over", [("t", "3 3 0,2:-", half)], [("t", "3 3 1,2:-", half)]
    )
    await fails(loader, tmp_path / "over", Corrupt, says="overlap")


async def test_an_index_of_many_tensors_is_parsed_in_a_worker(
    loader: asyncload.Loader, tmp_path: Path
) -> None:
    tensors = {f"layer_{n:05d}/a name of some length": np.int32(n) for n in range(9_000)}
    checkpoints.save(tmp_path / "many", tensors)
    assert (tmp_path / "many.index").stat().st_size > 256 << 10
    weights = await loader.load_weights(tmp_path / "many")
    assert [int(value) for value in weights.values()] == list(range(9_000))


async def test_several_loads_at_once(loader: asyncload.Loader, tmp_path: Path) -> None:
    prefixes = [MAKERS[kind](tmp_path) for kind in ("parts", "strings", "objects")]
    expected = [checkpoints.stock(prefix) for prefix in prefixes]
    results = await asyncio.gather(*(loader.load_weights(prefix) for prefix in prefixes * 3))
    for weights, arrays in zip(results, expected * 3, strict=True):
        assert_equal(weights, arrays)


def test_shapes_are_forged_as_tensorflow_writes_them() -> None:
    message = tf.TensorShape([3, 4]).as_proto()
    assert message.SerializeToString() == shape(3, 4)
