"""The stores keep to their protocols as far as loading leans on them."""

from __future__ import annotations

import hashlib
import random
import ssl
import urllib.error
import urllib.request
from collections.abc import Callable
from xml.etree import ElementTree as ET

import pytest

from tests.servers.azurite import Azurite
from tests.servers.rgw import Rgw
from tests.servers.s3 import Response
from tests.servers.web import Web

CONTENT = random.Random(3).randbytes(300_000)
RANGES = {
    "bytes=0-0": CONTENT[:1],
    "bytes=1000-1999": CONTENT[1000:2000],
    "bytes=299990-": CONTENT[-10:],
}


def check_ranges(get: Callable[[dict[str, str]], Response], etag: str) -> None:
    whole = get({})
    assert (whole.status, whole.body, whole.headers["etag"]) == (200, CONTENT, etag)
    for asked, expected in RANGES.items():
        part = get({"Range": asked, "If-Match": etag})
        assert (part.status, part.body, part.headers["etag"]) == (206, expected, etag)
        assert part.headers["content-range"].endswith("/300000")
    beyond = get({"Range": "bytes=300000-300001"})
    # Azurite, unlike Azure, answers with no bytes.
    assert beyond.status == 416 or (beyond.status, beyond.body) == (206, b"")
    assert get({"Range": "bytes=0-9", "If-Match": '"another"'}).status == 412
    assert get({"If-None-Match": etag}).status == 304


def fetch(url: str, headers: dict[str, str], context: ssl.SSLContext | None = None) -> Response:
    request = urllib.request.Request(url, headers=headers)
    try:
        with urllib.request.urlopen(request, context=context) as answer:
            names = {name.lower(): value for name, value in answer.headers.items()}
            return Response(answer.status, names, answer.read())
    except urllib.error.HTTPError as error:
        with error:
            names = {name.lower(): value for name, value in error.headers.items()}
            return Response(error.code, names, error.read())


def test_s3_ranges_and_versions(rgw: Rgw) -> None:
    bucket = rgw.make_bucket("conformance")
    etag = rgw.put(bucket, "a b/ü+.bin", CONTENT)
    assert etag == f'"{hashlib.md5(CONTENT).hexdigest()}"'
    check_ranges(lambda headers: rgw.request("GET", bucket, "a b/ü+.bin", headers=headers), etag)
    head = rgw.request("HEAD", bucket, "a b/ü+.bin")
    assert (head.status, head.headers["content-length"], head.body) == (200, "300000", b"")
    assert rgw.put(bucket, "a b/ü+.bin", CONTENT[::-1]) != etag
    rgw.delete(bucket, "a b/ü+.bin")
    missing = rgw.request("GET", bucket, "a b/ü+.bin")
    assert (missing.status, b"NoSuchKey" in missing.body) == (404, True)


def test_s3_multipart_etag(rgw: Rgw) -> None:
    bucket, part = rgw.make_bucket("multipart"), 5 << 20
    content = random.Random(4).randbytes(2 * part + 7)
    sums = [hashlib.md5(content[at : at + part]).digest() for at in range(0, len(content), part)]
    expected = f'"{hashlib.md5(b"".join(sums)).hexdigest()}-3"'
    assert rgw.put(bucket, "large.bin", content, part_size=part) == expected
    answer = rgw.request("GET", bucket, "large.bin", headers={"Range": f"bytes={part - 1}-{part}"})
    assert answer.body == content[part - 1 : part + 1]


def test_s3_lists_in_pages(rgw: Rgw) -> None:
    bucket = rgw.make_bucket("listing")
    keys = [f"model/{index:03d}.bin" for index in range(25)]
    rgw.put_many(bucket, [*keys, "other/x.bin"], b"x")
    found: list[str] = []
    query = {"list-type": "2", "prefix": "model/", "max-keys": "10"}
    for expected in (10, 10, 5):
        page = ET.fromstring(rgw.request("GET", bucket, query=query).body)
        found += [element.text or "" for element in page.findall("{*}Contents/{*}Key")]
        assert page.findtext("{*}KeyCount") == str(expected)
        query["continuation-token"] = page.findtext("{*}NextContinuationToken") or ""
    assert found == keys


def test_s3_refuses_strangers_but_for_public_buckets(rgw: Rgw) -> None:
    closed, public = rgw.make_bucket("closed"), rgw.make_bucket("public", public=True)
    for bucket in (closed, public):
        rgw.put(bucket, "a.bin", CONTENT)
    assert fetch(rgw.url(closed, "a.bin"), {}).status == 403
    assert fetch(rgw.url(public, "a.bin"), {}).body == CONTENT


def test_s3_survives_a_crash_of_the_gateway(rgw: Rgw) -> None:
    bucket = rgw.make_bucket("crash")
    etag = rgw.put(bucket, "a.bin", CONTENT)
    rgw.kill()
    with pytest.raises(ConnectionRefusedError):
        rgw.request("GET", bucket, "a.bin")
    rgw.start()
    again = rgw.request("GET", bucket, "a.bin")
    assert (again.body, again.headers["etag"]) == (CONTENT, etag)


def test_azure_ranges_and_versions(azurite: Azurite) -> None:
    container = azurite.make_container("conformance")
    assert azurite.make_container("conformance") == container
    etag = azurite.put(container, "a b/ü+.bin", CONTENT)
    check_ranges(
        lambda headers: azurite.request("GET", container, "a b/ü+.bin", headers=headers), etag
    )
    assert azurite.put(container, "a b/ü+.bin", CONTENT[::-1]) != etag
    assert fetch(azurite.url(container, "a b/ü+.bin"), {}).status in {403, 404}
    azurite.delete(container, "a b/ü+.bin")
    assert azurite.request("GET", container, "a b/ü+.bin").status == 404


def test_azure_lists_in_pages(azurite: Azurite) -> None:
    container = azurite.make_container("listing", public=True)
    keys = [f"model/{index}.bin" for index in range(5)]
    for key in keys:
        azurite.put(container, key, b"x")
    assert fetch(azurite.url(container, keys[0]), {}).body == b"x"
    query = {"restype": "container", "comp": "list", "prefix": "model/", "maxresults": "3"}
    found: list[str] = []
    for _ in range(2):
        page = ET.fromstring(azurite.request("GET", container, query=query).body)
        found += [element.text or "" for element in page.iter("Name")]
        query["marker"] = page.findtext("NextMarker") or ""
    assert found == keys


@pytest.mark.parametrize("scheme", ["http", "https"])
def test_web_ranges_and_versions(web: Web, scheme: str) -> None:
    web.put("folder/a.bin", CONTENT)
    url = f"{web.url if scheme == 'http' else web.tls_url}/folder/a.bin"
    context = ssl.create_default_context(cafile=web.ca_file)
    etag = fetch(url, {}, context).headers["etag"]
    check_ranges(lambda headers: fetch(url, headers, context), etag)
    web.put("folder/a.bin", CONTENT[::-1])
    assert fetch(url, {"If-Match": etag}, context).status == 412


def test_web_certificate_is_not_trusted_by_itself(web: Web) -> None:
    with pytest.raises(urllib.error.URLError, match="certificate verify failed"):
        fetch(f"{web.tls_url}/", {})


def test_web_without_ranges_and_behind_a_password(web: Web) -> None:
    web.put("b.bin", CONTENT)
    whole = fetch(f"{web.norange_url}/b.bin", {"Range": "bytes=0-9"})
    assert (whole.status, whole.body) == (200, CONTENT)
    assert fetch(f"{web.private_url}/b.bin", {}).status == 401
    manager = urllib.request.HTTPPasswordMgrWithPriorAuth()
    manager.add_password(None, web.url, web.user, web.password, is_authenticated=True)
    opener = urllib.request.build_opener(urllib.request.HTTPBasicAuthHandler(manager))
    with opener.open(f"{web.private_url}/b.bin") as answer:
        assert answer.read() == CONTENT


def test_web_restarts_at_its_port(web: Web) -> None:
    web.put("c.bin", CONTENT)
    web.kill()
    with pytest.raises(urllib.error.URLError, match="refused"):
        fetch(f"{web.url}/c.bin", {})
    web.start()
    assert fetch(f"{web.url}/c.bin", {}).body == CONTENT
