"""`Loader.fetch` compares what came with the checksums that stores state."""

from __future__ import annotations

import base64
import hashlib
from pathlib import Path
from typing import Any

import google_crc32c
import pytest

import asyncload
from asyncload.errors import TransferFailed
from tests.loader.fetched import CONTENT, MIB, QUICK, files, s3, serve
from tests.servers.faults.settings import HttpFault
from tests.servers.plugin import MakeHttpFaults
from tests.servers.rgw import Rgw

MD5 = hashlib.md5(CONTENT).digest()
CRC32C = google_crc32c.value(CONTENT).to_bytes(4, "big")


def text(digest: bytes) -> str:
    return base64.b64encode(digest).decode()


STATED: list[dict[str, str | None]] = [
    {"Content-MD5": text(MD5)},
    {"x-goog-hash": f"crc32c={text(CRC32C)},md5={text(MD5)}"},
    {"Repr-Digest": f"sha-256=:{text(hashlib.sha256(CONTENT).digest())}:"},
    {"x-amz-checksum-crc32c": text(CRC32C)},
]


@pytest.mark.parametrize("headers", STATED, ids=lambda headers: next(iter(headers)))
async def test_what_a_server_states_is_compared(
    headers: dict[str, str | None],
    http_faults: MakeHttpFaults,
    loader: asyncload.Loader,
    tmp_path: Path,
) -> None:
    server = serve(http_faults, tmp_path, HttpFault(method="*", headers=headers))
    uri, to = f"{server.endpoint}/m.bin", tmp_path / "to"
    await loader.fetch(uri, tmp_path / "good", storage_options=QUICK)
    server.set(
        HttpFault(skip=1, times=1, flip=5 * MIB, rate=1e9),
        HttpFault(method="*", headers=headers),
    )
    options = {**QUICK, "part_size": 8 * MIB}
    with pytest.raises(TransferFailed, match="the store states"):
        await loader.fetch(uri, to, storage_options=options)
    assert files(to) == {}
    fetched = await loader.fetch(uri, to, storage_options=options)
    assert fetched.fetched == len(CONTENT), "what was damaged is no beginning"
    assert files(to) == {"m.bin": CONTENT}
    server.set(HttpFault(skip=1, times=1, flip=5), HttpFault(method="*", headers=headers))
    await loader.fetch(uri, tmp_path / "blind", verify=False, storage_options=options)
    assert files(tmp_path / "blind") != {"m.bin": CONTENT}


def s3_fault(**fault: Any) -> HttpFault:
    """Return a fault of a store whose ETag is what this has, and which compares none."""
    headers = {"ETag": f'"{MD5.hex()}"', **fault.pop("headers", {})}
    method = fault.pop("method", "*")
    return HttpFault(method=method, headers=headers, ignore=("if-match",), **fault)


@pytest.mark.parametrize(
    ("faults", "sent"),
    [
        ([s3_fault()], 1),
        # Damaged on its way once, and not the second time.
        ([s3_fault(method="GET", skip=1, times=1, flip=7), s3_fault()], 2),
        # No MD5, and nothing says so; and with a key, as the store says.
        ([s3_fault(headers={"ETag": f'"{"0" * 32}"'})], 2),
        (
            [
                s3_fault(
                    headers={
                        "ETag": f'"{"0" * 32}"',
                        "x-amz-server-side-encryption": "aws:kms",
                    }
                )
            ],
            1,
        ),
    ],
    ids=["right", "damaged once", "no md5", "encrypted"],
)
async def test_an_etag_that_may_be_an_md5(
    faults: list[HttpFault],
    sent: int,
    http_faults: MakeHttpFaults,
    loader: asyncload.Loader,
    tmp_path: Path,
) -> None:
    server = serve(http_faults, tmp_path, *faults)
    options = {
        **QUICK,
        "part_size": 8 * MIB,
        "endpoint": server.endpoint,
        "region": "x",
        "access_key_id": "a",
        "secret_access_key": "b",
    }
    (tmp_path / "store" / "bucket").mkdir()
    (tmp_path / "store" / "m.bin").rename(tmp_path / "store" / "bucket" / "m.bin")
    await loader.fetch("s3://bucket/m.bin", tmp_path / "to", storage_options=options)
    assert files(tmp_path / "to") == {"m.bin": CONTENT}
    assert abs(server.bytes_sent() - sent * len(CONTENT)) < 200_000


async def test_damaged_each_time(
    http_faults: MakeHttpFaults, loader: asyncload.Loader, tmp_path: Path
) -> None:
    faults = [s3_fault(method="GET", skip=1, times=1, flip=at) for at in (5, 6)]
    server = serve(http_faults, tmp_path, *faults, s3_fault())
    (tmp_path / "store" / "bucket").mkdir()
    (tmp_path / "store" / "m.bin").rename(tmp_path / "store" / "bucket" / "m.bin")
    options = {**QUICK, "part_size": 8 * MIB, "endpoint": server.endpoint, "anonymous": True}
    with pytest.raises(TransferFailed, match="the store states"):
        await loader.fetch("s3://bucket/m.bin", tmp_path / "to", storage_options=options)
    assert files(tmp_path / "to") == {}


async def test_md5_etags_of_a_real_store(
    rgw: Rgw, loader: asyncload.Loader, tmp_path: Path
) -> None:
    rgw.make_bucket("fetch")
    rgw.put("fetch", "one.bin", CONTENT)
    rgw.put("fetch", "parts.bin", CONTENT, part_size=5 * MIB)  # an ETag of another form
    await loader.fetch("s3://fetch/one.bin", tmp_path / "to", storage_options=s3(rgw))
    await loader.fetch("s3://fetch/parts.bin", tmp_path / "to", storage_options=s3(rgw))
    assert files(tmp_path / "to") == {"one.bin": CONTENT, "parts.bin": CONTENT}
