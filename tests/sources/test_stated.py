"""Checksums in headers: those of the whole object are taken, others and rubbish are not."""

from __future__ import annotations

import base64

import pytest
from hypothesis import given
from hypothesis import strategies as st

from asyncload.interfaces import Checksum
from asyncload.sources._stated import checksum_in, etag_md5, is_no_md5

MD5 = bytes(range(16))
CRC = b"\x00\x01\x02\xff"


def text(digest: bytes) -> str:
    return base64.b64encode(digest).decode()


@pytest.mark.parametrize(
    ("headers", "expected"),
    [
        ({}, None),
        ({"content-md5": text(MD5)}, Checksum("md5", MD5.hex())),
        ({"content-md5": text(CRC)}, None),
        ({"x-goog-hash": f"crc32c={text(CRC)}"}, Checksum("crc32c", "000102ff")),
        ({"x-goog-hash": f"md5={text(MD5)}, crc32c={text(CRC)}"}, Checksum("crc32c", "000102ff")),
        ({"x-goog-hash": f"md5={text(MD5)}"}, Checksum("md5", MD5.hex())),
        ({"x-goog-hash": f"xmd5={text(MD5)}"}, None),
        ({"repr-digest": f"md5=:{text(MD5)}:, sha-256=:{text(MD5 * 2)}:"},
         Checksum("sha256", (MD5 * 2).hex())),
        ({"x-amz-checksum-sha256": f"{text(MD5 * 2)}-3"}, None),
        ({"x-amz-checksum-crc32c": text(CRC), "x-amz-checksum-type": "COMPOSITE"}, None),
        ({"content-md5": text(MD5), "content-encoding": "gzip"}, None),
    ],
)  # fmt: skip
def test_what_headers_state(headers: dict[str, str], expected: Checksum | None) -> None:
    assert checksum_in(headers) == expected


@given(st.dictionaries(st.sampled_from(["content-md5", "x-goog-hash", "repr-digest"]), st.text()))
def test_any_headers(headers: dict[str, str]) -> None:
    found = checksum_in(headers)
    assert found is None or found.certain


def test_etags() -> None:
    assert etag_md5(f'"{MD5.hex()}"') == Checksum("md5", MD5.hex(), certain=False)
    for other in (None, "", f'"{MD5.hex()}-3"', f'W/"{MD5.hex()}"', '"6565-1f"', '"0x8D"'):
        assert etag_md5(other) is None
    assert not is_no_md5({})
    assert not is_no_md5({"x-amz-server-side-encryption": "AES256"})
    for name, value in (
        ("x-amz-server-side-encryption", "aws:kms"),
        ("x-amz-server-side-encryption-customer-algorithm", "AES256"),
        ("x-amz-storage-class", "EXPRESS_ONEZONE"),
    ):
        assert is_no_md5({name: value})
