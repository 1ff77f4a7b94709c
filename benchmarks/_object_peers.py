"""What loads from object storage are compared with: plain obstore, and Run:ai's model streamer.

python benchmarks/_object_peers.py URI [URI ...]

Run by an interpreter that has runai-model-streamer[s3] and torch (2.13.0): at each line on standard
input it loads the safetensors at the URIs, and prints the seconds that took.
"""

from __future__ import annotations

import asyncio
import math
import os
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Self

__all__ = ["RUNAI_WAYS", "WAYS", "Fetch", "RunAi"]

# (bytes of one request, requests at once). The best of them is what the client can do.
WAYS = {"8 MiB x 16": (8 << 20, 16), "16 MiB x 8": (16 << 20, 8), "8 MiB x 8": (8 << 20, 8)}
# Run:ai's settings, in its environment: what it does by itself, and what is faster here.
_LARGE = {"RUNAI_STREAMER_CHUNK_BYTESIZE": str(16 << 20)}
RUNAI_WAYS: Mapping[str, Mapping[str, str]] = {
    "its defaults": {},
    "16 MiB x 8": {**_LARGE, "RUNAI_STREAMER_CONCURRENCY": "8"},
    "16 MiB x 16": {**_LARGE, "RUNAI_STREAMER_CONCURRENCY": "16"},
}


@dataclass(frozen=True, slots=True)
class Fetch:
    """Objects, to be read with obstore's asynchronous interface and thrown away.

    Attributes:
        store: obstore's.
        sizes: key -> bytes.
    """

    store: Any
    sizes: Mapping[str, int]

    async def __call__(self, part: int, parallel: int) -> None:
        """Read all, ``parallel`` ranges of ``part`` bytes at once."""
        import obstore

        ranges = self._ranges(part)

        async def drain() -> None:
            for key, start, length in ranges:
                got = await obstore.get_range_async(self.store, key, start=start, length=length)
                if len(got) != length:
                    raise SystemExit(f"{key}: {len(got)} bytes instead of {length}")

        await asyncio.gather(*(drain() for _ in range(parallel)))

    def _ranges(self, part: int) -> Iterator[tuple[str, int, int]]:
        for key, size in self.sizes.items():
            for index in range(math.ceil(size / part)):
                yield key, index * part, min(part, size - index * part)


class RunAi:
    """Run:ai's model streamer, in a process of its own that is asked for one load at a time.

    Args:
        python: an interpreter that has it.
        uris: of safetensors in a bucket.
        endpoint: of the store.
        access_key, secret_key: for the store.
        settings: added to its environment.
    """

    def __init__(
        self,
        python: str,
        uris: Sequence[str],
        *,
        endpoint: str,
        access_key: str,
        secret_key: str,
        settings: Mapping[str, str],
    ) -> None:
        self._command = [python, __file__, *uris]
        self._environment = {
            **os.environ,
            "AWS_ENDPOINT_URL": endpoint,
            "AWS_ACCESS_KEY_ID": access_key,
            "AWS_SECRET_ACCESS_KEY": secret_key,
            "AWS_DEFAULT_REGION": "us-east-1",
            "AWS_REGION": "us-east-1",
            "AWS_EC2_METADATA_DISABLED": "true",
            "RUNAI_STREAMER_S3_USE_VIRTUAL_ADDRESSING": "0",
            **settings,
        }
        self._process: asyncio.subprocess.Process

    async def __aenter__(self) -> Self:
        pipe = asyncio.subprocess.PIPE
        self._process = await asyncio.create_subprocess_exec(
            *self._command, stdin=pipe, stdout=pipe, env=self._environment
        )
        return self

    async def __aexit__(self, *_: object) -> None:
        self._process.kill()
        await self._process.wait()

    async def __call__(self) -> float:
        """Return how many seconds a load took, as it measured itself."""
        source, sink = self._process.stdin, self._process.stdout
        if source is None or sink is None:
            raise SystemExit("the peer has no pipes")
        source.write(b"\n")
        line = await sink.readline()
        if not line:
            raise SystemExit(f"{' '.join(self._command)} failed")
        return float(line)


def _serve(uris: list[str]) -> None:
    from runai_model_streamer import SafetensorsStreamer  # type: ignore[import-not-found]

    for _ in sys.stdin:
        begin = time.perf_counter()
        with SafetensorsStreamer() as streamer:
            # Its buffer holds all of the files, so the tensors stay valid: nothing to copy.
            streamer.stream_files(uris)
            tensors = dict(streamer.get_tensors())
        elapsed = time.perf_counter() - begin
        if not tensors:
            raise SystemExit("no tensors came")
        sys.stdout.write(f"{elapsed}\n")
        sys.stdout.flush()
        del tensors


if __name__ == "__main__":
    _serve(sys.argv[1:])
