"""Checksums that a store or a server states of a whole object, in headers of its answers.

Of S3 they are asked for apart, by a URL that obstore signs, as it does not hand them out. Such a
signature is of the host alone, and S3 takes no ``x-amz-checksum-mode`` that is not signed; so of S3
there is the ETag, and whether that is an MD5.
"""

from __future__ import annotations

import base64
import re
from collections.abc import Mapping

from asyncload.interfaces import Checksum

__all__ = ["checksum_in", "etag_md5", "is_no_md5"]

_MD5_ETAG = re.compile(r'"([0-9a-f]{32})"')
_LENGTHS = {"crc32c": 4, "md5": 16, "sha256": 32}  # bytes
# Header -> what its Base64 is, the quickest to compare first.
_WHOLE = (
    ("x-amz-checksum-crc32c", "crc32c"),
    ("content-md5", "md5"),
    ("x-ms-blob-content-md5", "md5"),
    ("x-amz-checksum-sha256", "sha256"),
)
# Header -> names in its list of name=Base64, and what they are: Google's XML API; RFC 9530.
_LISTS = (
    ("x-goog-hash", "crc32c", "crc32c"),
    ("x-goog-hash", "md5", "md5"),
    ("repr-digest", "sha-256", "sha256"),
)


def checksum_in(headers: Mapping[str, str]) -> Checksum | None:
    """Return a checksum of the whole object that the headers of an answer have.

    Args:
        headers: names in small letters.
    """
    if (
        headers.get("content-encoding", "identity") != "identity"
        or headers.get("x-amz-checksum-type", "FULL_OBJECT") != "FULL_OBJECT"
    ):
        return None
    found = [(kind, headers.get(name, "")) for name, kind in _WHOLE]
    for name, label, kind in _LISTS:
        match = re.search(rf"(?:^|[,\s]){label}=:?([A-Za-z0-9+/=]+)", headers.get(name, ""))
        found.append((kind, match[1] if match else ""))
    found.sort(key=lambda each: list(_LENGTHS).index(each[0]))
    for kind, text in found:
        try:
            digest = base64.b64decode(text, validate=True)
        except ValueError:  # of parts, with their number behind it, or rubbish
            continue
        if len(digest) == _LENGTHS[kind]:
            return Checksum(kind, digest.hex())
    return None


def etag_md5(etag: str | None) -> Checksum | None:
    """Return the MD5 that an ETag looks like."""
    match = _MD5_ETAG.fullmatch(etag or "")
    return None if match is None else Checksum("md5", match[1], certain=False)


def is_no_md5(headers: Mapping[str, str]) -> bool:
    """Whether S3 says that an object's ETag is no MD5 of it, by how it is kept.

    Source: https://docs.aws.amazon.com/AmazonS3/latest/API/API_Object.html
    """
    encryption = headers.get("x-amz-server-side-encryption", "AES256")
    return (
        encryption != "AES256"
        or "x-amz-server-side-encryption-customer-algorithm" in headers
        or headers.get("x-amz-storage-class") == "EXPRESS_ONEZONE"
    )
