"""Run servers by hand until Ctrl-C: python -m tests.servers rgw azurite web."""

from __future__ import annotations

import argparse
import contextlib
import shlex
import signal
import sys
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager

from tests.servers.azurite import Azurite
from tests.servers.daemon import Unavailable
from tests.servers.rgw import Rgw
from tests.servers.web import Web

_BUCKET = "models"


@contextlib.contextmanager
def _rgw() -> Iterator[dict[str, str]]:
    with Rgw() as server:
        server.make_bucket(_BUCKET, public=True)
        yield {
            "AWS_ENDPOINT_URL": server.endpoint,
            "AWS_REGION": server.region,
            "AWS_ACCESS_KEY_ID": server.access_key,
            "AWS_SECRET_ACCESS_KEY": server.secret_key,
            "AWS_ALLOW_HTTP": "true",
        }


@contextlib.contextmanager
def _azurite() -> Iterator[dict[str, str]]:
    with Azurite() as server:
        server.make_container(_BUCKET, public=True)
        yield {"AZURE_STORAGE_CONNECTION_STRING": server.connection_string}


@contextlib.contextmanager
def _web() -> Iterator[dict[str, str]]:
    with Web() as server:
        yield {
            "WEB_ROOT": str(server.root),
            "WEB_URL": server.url,
            "WEB_TLS_URL": server.tls_url,
            "WEB_CA_FILE": str(server.ca_file),
            "WEB_PRIVATE_URL": server.private_url,
            "WEB_USER": server.user,
            "WEB_PASSWORD": server.password,
        }


_SERVERS: dict[str, Callable[[], AbstractContextManager[dict[str, str]]]] = {
    "rgw": _rgw,
    "azurite": _azurite,
    "web": _web,
}


def main() -> None:
    """Start what was asked for, and print what a shell needs to use it."""
    parser = argparse.ArgumentParser(prog="python -m tests.servers", description=__doc__)
    parser.add_argument("servers", nargs="+", choices=_SERVERS, metavar="rgw|azurite|web")
    chosen = dict.fromkeys(parser.parse_args().servers)
    # Asked to end, it ends them as after Ctrl-C.
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    with contextlib.ExitStack() as running, contextlib.suppress(KeyboardInterrupt):
        for name in chosen:
            for variable, value in running.enter_context(_SERVERS[name]()).items():
                print(f"export {variable}={shlex.quote(value)}", flush=True)
        print("# Ctrl-C ends them", flush=True)
        signal.pause()


if __name__ == "__main__":
    try:
        main()
    except Unavailable as error:
        sys.exit(str(error))
