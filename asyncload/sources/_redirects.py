"""Where a redirect leads, and what may go there. Pure.

A server that redirects hands the request to somebody else. What was meant for the first server
alone (headers of the caller, a URL's password, the query that signs a URL) goes to no other origin:
not on the way there, nor to whatever that one redirects to.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Self
from urllib.parse import quote, urljoin, urlsplit, urlunsplit

__all__ = ["MOST", "BadRedirect", "Request", "exact", "origin"]

MOST = 10  # redirects of one request
STATUSES = frozenset({301, 302, 303, 307, 308})

_PORTS = {"http": 80, "https": 443}
_STRAY_PERCENT = re.compile(r"%(?![0-9A-Fa-f]{2})")
_SAFE = "%!$&'()*+,;=:@/?-._~[]"


class BadRedirect(ValueError):
    """A redirect that is not followed; the text says why."""


def origin(url: str) -> tuple[str, str, int]:
    """Return scheme, host and port of a URL."""
    parts = urlsplit(url)
    scheme = parts.scheme.lower()
    return scheme, (parts.hostname or "").lower(), parts.port or _PORTS.get(scheme, 0)


def exact(text: str) -> str:
    """Return a path or a query as it is sent: what is quoted stays, the rest is quoted."""
    return quote(_STRAY_PERCENT.sub("%25", text), safe=_SAFE)


@dataclass(frozen=True, slots=True)
class Request:
    """Where a request goes, and with which headers.

    Attributes:
        url: without user, password and fragment.
        headers: that any server may see.
        private: that only the first origin may see.
    """

    url: str = field(repr=False)
    headers: Mapping[str, str]
    private: Mapping[str, str] = field(default_factory=dict, repr=False)

    def redirected(self, location: str) -> Self:
        """Return the request that a redirect asks for.

        Raises:
            BadRedirect: it leads to no server, or out of TLS.
        """
        try:
            parts = urlsplit(urljoin(self.url, location))
            host, port = parts.hostname, parts.port
        except ValueError as error:
            raise BadRedirect("it redirects to what is no URL") from error
        if parts.scheme not in _PORTS or not host:
            raise BadRedirect(f"it redirects to {parts.scheme}://, which is no web server")
        if parts.scheme == "http" and origin(self.url)[0] == "https":
            raise BadRedirect("it redirects from https:// to http://, which nobody protects")
        name = f"[{host}]" if ":" in host else host
        netloc = name if port is None else f"{name}:{port}"
        url = urlunsplit((parts.scheme, netloc, exact(parts.path), exact(parts.query), ""))
        private = self.private if origin(url) == origin(self.url) else {}
        return replace(self, url=url, private=private)
