"""Messages between this process and a worker: eight bytes of length, then as many bytes."""

from __future__ import annotations

import socket

__all__ = ["receive", "send"]

_LENGTH = 8  # bytes, the most significant first; _boot.py reads the first message without this file


def send(line: socket.socket, message: bytes) -> None:
    """Send one message.

    Raises:
        OSError: nobody is at the other end.
    """
    line.sendall(len(message).to_bytes(_LENGTH, "big"))
    line.sendall(message)


def receive(line: socket.socket) -> bytearray:
    """Wait for one message.

    Raises:
        EOFError: the other end was closed.
        OSError: it was closed while it sent.
    """
    return _exactly(line, int.from_bytes(_exactly(line, _LENGTH), "big"))


def _exactly(line: socket.socket, count: int) -> bytearray:
    message = bytearray(count)
    rest = memoryview(message)
    while rest:
        arrived = line.recv_into(rest)
        if not arrived:
            raise EOFError("the other end was closed")
        rest = rest[arrived:]
    return message
