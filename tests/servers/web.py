"""nginx over a folder: ranges, ETags and TLS as web servers speak them."""

from __future__ import annotations

import os
import secrets
import subprocess
import tempfile
import time
from pathlib import Path
from typing import Self
from urllib.parse import quote

from tests.servers.daemon import LOOPBACK, Daemon, Unavailable, await_port, find, free_port

__all__ = ["Web"]

# One process, so that none outlives it. Debian's default paths are not for every user to write.
_CONFIG = """
daemon off;
master_process off;
pid {home}/nginx.pid;
error_log stderr warn;
events {{ worker_connections 1024; }}
http {{
  access_log off;
  client_body_temp_path {home}/temp;
  proxy_temp_path {home}/temp;
  fastcgi_temp_path {home}/temp;
  uwsgi_temp_path {home}/temp;
  scgi_temp_path {home}/temp;
  default_type application/octet-stream;
  sendfile on;
  tcp_nopush on;
  keepalive_requests 100000;
  server {{
    listen {host}:{port} backlog=1024;
    listen {host}:{tls_port} ssl backlog=1024;
    ssl_certificate {home}/server.pem;
    ssl_certificate_key {home}/server.key;
    root {root};
    etag on;
    location /norange/ {{ alias {root}/; max_ranges 0; }}
    location /private/ {{
      alias {root}/;
      auth_basic asyncload;
      auth_basic_user_file {home}/users;
    }}
  }}
}}
"""
_KEY = ["-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes", "-days", "2"]


class Web:
    """A running nginx; a context manager that ends it.

    Attributes:
        root: the folder it serves.
        url: ``http://127.0.0.1:PORT``, with no slash at its end.
        tls_url: ``https://127.0.0.1:PORT``; the certificate is for ``localhost``, too.
        norange_url: the same files, and any Range is ignored: 200 and all of it.
        private_url: the same files, to `user` with `password` only (basic authentication).
        ca_file: certificate of the authority that signed the server's.
        port: of ``url``.
        tls_port: of ``tls_url``.

    Raises:
        Unavailable: it is not installed, or does not start.
    """

    def __init__(self) -> None:
        find("nginx")
        self._folder = tempfile.TemporaryDirectory(prefix="asyncload-web-")
        home = Path(self._folder.name)
        self.root = home / "files"
        self.root.mkdir()
        self.port, self.tls_port = free_port(), free_port()
        self.url = f"http://{LOOPBACK}:{self.port}"
        self.tls_url = f"https://{LOOPBACK}:{self.tls_port}"
        self.norange_url = f"{self.url}/norange"
        self.private_url = f"{self.url}/private"
        self.user, self.password = "reader", secrets.token_urlsafe(16)
        self.ca_file = home / "ca.pem"
        (home / "users").write_text(f"{self.user}:{{PLAIN}}{self.password}\n")
        config = home / "nginx.conf"
        config.write_text(
            _CONFIG.format(
                home=home, root=self.root, host=LOOPBACK, port=self.port, tls_port=self.tls_port
            )
        )
        self._daemon = Daemon(["nginx", "-e", "stderr", "-c", str(config)], home / "nginx.log")
        try:
            _make_certificates(home)
            self.start()
        except BaseException:
            self.close()
            raise

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def start(self) -> None:
        """Start it again after `kill`, at the same ports; takes some 10 ms."""
        self._daemon.start()
        await_port(self._daemon, self.port)

    def kill(self) -> None:
        """End it at once, as a crash would."""
        self._daemon.kill()

    def close(self) -> None:
        """End it and remove its files; twice is fine."""
        self.kill()
        self._folder.cleanup()

    def put(self, name: str, data: bytes) -> str:
        """Write a file below `root`, at once and whole; return its URL (without TLS).

        nginx makes its ETag of the length and the second of the change, so one that is replaced
        gets a later second than it had, and with it another ETag.
        """
        path = self.root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        part = path.with_name(f".{path.name}.part")
        part.write_bytes(data)
        if path.exists():
            changed = max(int(time.time()), int(path.stat().st_mtime) + 1)
            os.utime(part, (changed, changed))
        part.replace(path)
        return f"{self.url}/{quote(name)}"


def _make_certificates(home: Path) -> None:
    """Make an authority, and a certificate of it for this machine's loopback, for two days."""
    names = f"subjectAltName=IP:{LOOPBACK},DNS:localhost"
    authority = ["-x509", "-subj", "/CN=asyncload tests", "-out", f"{home}/ca.pem"]
    server = [
        "-x509", "-subj", "/CN=localhost", "-CA", f"{home}/ca.pem", "-CAkey", f"{home}/ca.key",
        "-addext", names, "-addext", "basicConstraints=critical,CA:FALSE",
        "-out", f"{home}/server.pem",
    ]  # fmt: skip
    for arguments, key in ((authority, "ca.key"), (server, "server.key")):
        command = [find("openssl"), "req", *_KEY, "-keyout", f"{home}/{key}", *arguments]
        made = subprocess.run(command, capture_output=True, text=True, check=False)
        if made.returncode:
            raise Unavailable(f"openssl made no certificate: {made.stderr[-1000:]}")
