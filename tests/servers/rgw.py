"""Ceph's object gateway (RGW): S3 as a real store speaks it.

One monitor, one storage daemon that keeps its objects in memory, and the gateway, all on loopback.
The options are those of a cluster of one: a single copy, no rebalancing, no log files, and a
monitor that decides at once rather than gathering changes first.
"""

from __future__ import annotations

import contextlib
import http.client
import json
import secrets
import subprocess
import tempfile
import uuid
from collections.abc import Iterable, Mapping
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Self
from urllib.parse import quote
from xml.etree import ElementTree as ET

from tests.servers.daemon import LOOPBACK, Daemon, Unavailable, await_port, find, free_port
from tests.servers.s3 import Response, S3Client

__all__ = ["Rgw"]

_PROGRAMS = (
    "ceph", "ceph-authtool", "ceph-mon", "ceph-osd", "monmaptool", "radosgw", "radosgw-admin",
)  # fmt: skip
_CAPACITY = 8 << 30  # bytes the storage daemon may hold, in memory
_PATIENCE = 30.0  # seconds an administrative command may take
_PART = 64 << 20  # bytes of an upload's part: larger objects are sent in several
_PUTS_AT_ONCE = 8
_USER = "client.rgw.tests"
_CONFIG = """
[global]
fsid = {fsid}
mon host = [v2:{host}:{mon}]
public network = 127.0.0.0/8
ms bind ipv4 = true
auth cluster required = cephx
auth service required = cephx
auth client required = cephx
auth allow insecure global id reclaim = false
mon allow pool size one = true
mon warn on pool no redundancy = false
mon data avail crit = 1
paxos propose interval = 0.02
paxos min wait = 0.01
osd pool default size = 1
osd pool default min size = 1
osd pool default pg num = 2
osd pool default pgp num = 2
osd pool default pg autoscale mode = off
osd crush chooseleaf type = 0
osd objectstore = memstore
memstore device bytes = {capacity}
log to file = false
log to stderr = false
debug ms = 0/0
debug osd = 0/0
debug rgw = 0/0
debug objecter = 0/0
debug monc = 0/0
debug auth = 0/0
ms crc data = false
run dir = {root}/run
pid file = {root}/run/$type.$id.pid
admin socket = {root}/run/$cluster-$name.asok
mon data = {root}/mon
osd data = {root}/osd
mgr data = {root}/mgr
keyring = {root}/keyring

[osd]
osd min pg log entries = 10
osd memory target = 939524096

[{user}]
rgw frontends = beast endpoint={host}:{port} tcp_nodelay=1
rgw data = {root}/rgw
rgw thread pool size = 64
rgw enable usage log = false
rgw enable ops log = false
"""
_CAPABILITIES = {
    "mon.": {"mon": "allow *"},
    "client.admin": {"mon": "allow *", "osd": "allow *", "mgr": "allow *"},
    _USER: {"mon": "allow rwx", "osd": "allow rwx"},
    "osd.0": {"mon": "allow profile osd", "osd": "allow *", "mgr": "allow profile osd"},
}


class Rgw:
    """A running gateway; a context manager that ends it.

    Attributes:
        endpoint: ``http://127.0.0.1:PORT``.
        port: of the endpoint.
        region: any works; this is the usual one.
        access_key: of the user that owns all buckets made here.
        secret_key: of that user.
        gcs_service_account: JSON that makes obstore's GCSStore read public buckets from here
            (``service_account_key=``).

    Raises:
        Unavailable: it is not installed, or does not start.
    """

    def __init__(self) -> None:
        for program in _PROGRAMS:
            find(program)
        self.port = free_port()
        self.endpoint = f"http://{LOOPBACK}:{self.port}"
        self.region = "us-east-1"
        self.access_key = "AKIA" + secrets.token_hex(8).upper()
        self.secret_key = secrets.token_urlsafe(30)
        self.gcs_service_account = json.dumps(
            {
                "gcs_base_url": self.endpoint,
                "disable_oauth": True,
                "client_email": "",
                "private_key": "",
                "private_key_id": "",
            }
        )
        self._client = S3Client(self.endpoint, self.access_key, self.secret_key)
        self._folder = tempfile.TemporaryDirectory(prefix="asyncload-rgw-")
        self._root = Path(self._folder.name)
        self._daemons: dict[str, Daemon] = {}
        try:
            self._write_config()
            self._start_cluster()
            self.start()
            keys = [f"--access-key={self.access_key}", f"--secret-key={self.secret_key}"]
            self._admin(
                "radosgw-admin", "user", "create", "--uid=tests", "--display-name=tests", *keys
            )
        except BaseException:
            self.close()
            raise

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """End all and remove its files; twice is fine."""
        for daemon in reversed(self._daemons.values()):
            daemon.kill()
        self._folder.cleanup()

    # --- the gateway's life --------------------------------------------------------------

    def start(self, *, wait: bool = True) -> None:
        """Start the gateway again after `kill`, at the same port, with all objects.

        Args:
            wait: return when it takes requests; otherwise at once; it takes some 0.1 s.
        """
        daemon = self._daemon("radosgw", "-n", _USER)
        daemon.start()
        if wait:
            await_port(daemon, self.port)

    def kill(self) -> None:
        """End the gateway at once, as a crash would; the objects stay in the storage daemon."""
        self._daemons["radosgw"].kill()

    # --- buckets and objects -------------------------------------------------------------

    def request(
        self,
        method: str,
        bucket: str,
        key: str = "",
        *,
        query: Mapping[str, str] | None = None,
        headers: Mapping[str, str] | None = None,
        body: bytes | memoryview = b"",
    ) -> Response:
        """Send any signed request, and return the answer whatever its status."""
        return self._client.request(method, bucket, key, query=query, headers=headers, body=body)

    def make_bucket(self, name: str, *, public: bool = False) -> str:
        """Make a bucket, or find it there; return its name.

        Args:
            name: small letters, digits, hyphens.
            public: let everybody read and list it, as GCS-style reads need.
        """
        _check(self.request("PUT", name))
        if public:
            statement = {
                "Effect": "Allow",
                "Principal": "*",
                "Action": ["s3:GetObject", "s3:ListBucket"],
                "Resource": [f"arn:aws:s3:::{name}", f"arn:aws:s3:::{name}/*"],
            }
            policy = {"Version": "2012-10-17", "Statement": [statement]}
            body = json.dumps(policy).encode()
            _check(self.request("PUT", name, query={"policy": ""}, body=body))
        return name

    def put(self, bucket: str, key: str, data: bytes, *, part_size: int = _PART) -> str:
        """Write an object; return its ETag, with its quotes.

        Args:
            bucket: that exists.
            key: the object's.
            data: its content.
            part_size: larger content is uploaded in parts of so many bytes (5 MiB at least), which
                gives a multipart ETag: the MD5 of the parts' MD5s, a hyphen, their number.
        """
        if len(data) > part_size:
            return self._put_parts(bucket, key, memoryview(data), part_size)
        return _check(self.request("PUT", bucket, key, body=data)).headers["etag"]

    def put_many(self, bucket: str, keys: Iterable[str], data: bytes) -> None:
        """Write the same ``data`` under many keys, several at once."""
        waiting = iter(list(keys))

        def work() -> None:
            with contextlib.closing(http.client.HTTPConnection(self._client.host)) as connection:
                for key in waiting:
                    answer = self._client.request(
                        "PUT", bucket, key, body=data, connection=connection
                    )
                    _check(answer)

        with ThreadPoolExecutor(_PUTS_AT_ONCE) as threads:
            for done in [threads.submit(work) for _ in range(_PUTS_AT_ONCE)]:
                done.result()

    def delete(self, bucket: str, key: str) -> None:
        """Remove an object."""
        _check(self.request("DELETE", bucket, key))

    def url(self, bucket: str, key: str) -> str:
        """Return where plain HTTP finds an object, which a public bucket allows."""
        return f"{self.endpoint}/{bucket}/{quote(key)}"

    def _put_parts(self, bucket: str, key: str, data: memoryview, part_size: int) -> str:
        begun = _check(self.request("POST", bucket, key, query={"uploads": ""}))
        upload = ET.fromstring(begun.body).findtext("{*}UploadId") or ""
        etags = []
        for number, offset in enumerate(range(0, len(data), part_size), 1):
            query = {"partNumber": str(number), "uploadId": upload}
            part = self.request(
                "PUT", bucket, key, query=query, body=data[offset : offset + part_size]
            )
            etags.append(_check(part).headers["etag"])
        parts = "".join(
            f"<Part><PartNumber>{number}</PartNumber><ETag>{etag}</ETag></Part>"
            for number, etag in enumerate(etags, 1)
        )
        body = f"<CompleteMultipartUpload>{parts}</CompleteMultipartUpload>".encode()
        _check(self.request("POST", bucket, key, query={"uploadId": upload}, body=body))
        return _check(self.request("HEAD", bucket, key)).headers["etag"]

    # --- the cluster ---------------------------------------------------------------------

    def _write_config(self) -> None:
        for folder in ("mon", "osd", "mgr", "rgw", "run"):
            (self._root / folder).mkdir()
        self._fsid, self._mon_port = str(uuid.uuid4()), free_port()
        text = _CONFIG.format(
            fsid=self._fsid, host=LOOPBACK, mon=self._mon_port, port=self.port, user=_USER,
            root=self._root, capacity=_CAPACITY,
        )  # fmt: skip
        (self._root / "ceph.conf").write_text(text)

    def _start_cluster(self) -> None:
        keyring, monmap = f"{self._root}/keyring", f"{self._root}/monmap"
        for index, (name, capabilities) in enumerate(_CAPABILITIES.items()):
            caps = [word for pair in capabilities.items() for word in ("--cap", *pair)]
            create = [] if index else ["--create-keyring"]
            self._run("ceph-authtool", *create, keyring, "--gen-key", "-n", name, *caps)
        address = f"[v2:{LOOPBACK}:{self._mon_port}]"
        self._run("monmaptool", "--create", "--addv", "a", address, "--fsid", self._fsid, monmap)
        self._admin("ceph-mon", "--mkfs", "-i", "a", "--monmap", monmap)
        self._daemon("ceph-mon", "-i", "a").start()
        identity = str(uuid.uuid4())
        self._admin("ceph", "osd", "new", identity, "0")
        self._admin("ceph-osd", "-i", "0", "--mkfs", "--osd-uuid", identity)
        self._daemon("ceph-osd", "-i", "0").start()

    def _daemon(self, program: str, *arguments: str) -> Daemon:
        if program not in self._daemons:
            command = [program, "-f", "-c", f"{self._root}/ceph.conf", *arguments]
            self._daemons[program] = Daemon(command, self._root / f"{program}.log")
        return self._daemons[program]

    def _admin(self, program: str, *arguments: str) -> None:
        self._run(program, "-c", f"{self._root}/ceph.conf", *arguments)

    def _run(self, program: str, *arguments: str) -> None:
        try:
            subprocess.run(
                [find(program), *arguments],
                check=True, capture_output=True, text=True, timeout=_PATIENCE,
            )  # fmt: skip
        except subprocess.CalledProcessError as error:
            raise Unavailable(f"{program} failed: {error.stderr[-1000:]}") from error
        except subprocess.TimeoutExpired as error:
            raise Unavailable(f"{program} hung: {error.stderr!r}") from error


def _check(answer: Response) -> Response:
    if answer.status >= 300:
        raise AssertionError(f"RGW answered {answer.status}: {answer.body[:500]!r}")
    return answer
