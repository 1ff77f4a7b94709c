"""What goes wrong between us and an HTTP server, in our own errors."""

from __future__ import annotations

from ssl import SSLError

import aiohttp

from asyncload.errors import TransferFailed

from ._redirects import BadRedirect

__all__ = ["passes", "unanswered", "untold"]

_PASSING = (408, 429)


def passes(status: int) -> bool:
    """Whether an answer may be another one in a moment."""
    return status in _PASSING or (status >= 500 and status not in (501, 505))


def unanswered(error: Exception, uri: str) -> TransferFailed:
    """Return the error for a request that got no answer, or not all of it.

    Raise it outside of the ``except`` block, as the original may show a URL that is signed; what
    can be said of it is the cause already.
    """
    failure = TransferFailed(f"it could not be fetched: {_meaning(error)}", uri=uri)
    failure.__cause__ = ConnectionError(f"{type(error).__name__}: {untold(error)}")
    return failure


def untold(error: Exception) -> str:
    """Return what an error says, as far as that names no URL."""
    text = str(error)
    return "" if "://" in text else text


def _meaning(error: Exception) -> str:
    match error:
        case BadRedirect():
            return f"{error}; name the URL that you want"
        case aiohttp.ClientConnectorDNSError():
            return "its host has no address; check the name"
        case aiohttp.ClientSSLError() | SSLError():
            return (
                "TLS failed; check the certificate, or pass its issuer's: "
                "storage_options={'ca_file': ...}"
            )
        case TimeoutError():
            return (
                "it stalled for longer than storage_options['timeouts'] allow; try again, or raise "
                "them"
            )
        case aiohttp.ClientProxyConnectionError() | aiohttp.ClientHttpProxyError():
            return "the proxy that the environment names refused; check it"
        case aiohttp.ClientConnectorError():
            return "nothing listens there; check host and port"
        case aiohttp.ClientPayloadError() | aiohttp.ServerDisconnectedError():
            return "it was cut short, each time; try again"
        case _:
            return f"{type(error).__name__} {untold(error)}; try again"
