"""What obstore says about objects, in our own errors, and without what is secret."""

from __future__ import annotations

import re
from collections.abc import Iterable

from obstore import exceptions

from asyncload.errors import AccessDenied, SourceError, TransferFailed

from ._answers import by_status, code_in, denied, is_denied, not_found
from ._object_version import changed

__all__ = ["translated"]

_DEBUG = re.compile(r"\s*\n\nDebug source:.*", re.DOTALL)
_USER = re.compile(r"(https?://)[^/\s\"@]*@")
_QUERY = re.compile(r"(https?://[^\s\"?]*)\?[^\s\"]*")
_STATUS = re.compile(r"status code: (\d{3})")
_BODY = re.compile(r"(status code: \d{3} ?[A-Za-z -]*):.*", re.DOTALL)
_METADATA_HOSTS = (
    "169.254.169.254",
    "169.254.170.2",
    "metadata.google.internal",
    "[fd00:ec2::254]",
)
# What of the client's own report tells a cause -> how to say it, and what to do.
_CAUSES = (
    (
        ("Requested ", "ontent-Range", "CONTENT_RANGE"),
        "its server, or a cache before it, does ranges wrongly; load a copy from disk",
    ),
    (
        ("with invalid path",),
        "a key there has an empty part, '.', '..' or a control sign, and makes no path; rename it",
    ),
    (("dns error", "failed to lookup address"), "its host has no address; check the name"),
    (
        (
            "certificate",
            "UnknownIssuer",
            "InvalidContentType",
            "HandshakeFailure",
            "CertificateErr",
        ),
        "TLS failed; check the certificate, or pass its issuer's: storage_options={'ca_file': ...}",
    ),
    (("Connection refused", "ConnectionRefused"), "nothing listens there; check host and port"),
    (
        ("TimedOut", "timed out", "Elapsed"),
        "it stalled for longer than storage_options['timeouts'] allow; try again, or raise them",
    ),
)


def scrubbed(error: Exception, secrets: Iterable[str]) -> Exception:
    """Return an error of the same type that names no user, signature or credential.

    Args:
        error: of the client; its text quotes whole URLs, and answers with what we signed.
        secrets: texts that are not to show.
    """
    text = str(error)
    code = code_in(text)
    text = _BODY.sub(r"\1", _DEBUG.sub("", text))
    text = _QUERY.sub(r"\1", _USER.sub(r"\1", text))
    for secret in secrets:
        text = text.replace(secret, "***")
    return type(error)(f"{text} ({code})" if code else text)


def translated(
    error: Exception, uri: str, *, secrets: Iterable[str] = (), pinned: bool = False
) -> SourceError:
    """Return our own error for what obstore raised on the object at ``uri``.

    Raise it outside of the ``except`` block, as the original shows what is secret; a clean copy of
    it is the cause already.

    Args:
        error: as it was raised.
        uri: for the message.
        secrets: texts that are not to show.
        pinned: whether a version was asked for that had been there.
    """
    clean = scrubbed(error, secrets)
    failure = _judge(error, clean, uri, pinned)
    failure.__cause__ = clean
    return failure


def _judge(error: Exception, clean: Exception, uri: str, pinned: bool) -> SourceError:
    text = str(error)
    found = _STATUS.search(text)
    status = int(found[1]) if found else None
    code = code_in(text)
    if any(host in text for host in _METADATA_HOSTS):
        return AccessDenied(
            "no credentials were found for it; set those of the environment, pass them as "
            "storage_options={...}, or storage_options={'anonymous': True} for what is public",
            uri=uri,
        )
    if isinstance(error, exceptions.PreconditionError):
        return changed(uri, "was replaced")
    if status is not None:
        return by_status(status, code, uri, pinned=pinned)
    if isinstance(error, FileNotFoundError):
        return not_found(code, uri)
    refused = (exceptions.PermissionDeniedError, exceptions.UnauthenticatedError)
    if isinstance(error, refused) or is_denied(status, code):
        return denied(status, code, uri)
    if isinstance(error, exceptions.UnknownConfigurationKeyError):
        return SourceError(f"storage_options has what this store does not take: {clean}", uri=uri)
    return _unanswered(text, clean, uri)


def _unanswered(text: str, clean: Exception, uri: str) -> TransferFailed:
    for signs, meaning in _CAUSES:
        if any(sign in text for sign in signs):
            return TransferFailed(f"it could not be fetched: {meaning}", uri=uri)
    return TransferFailed(f"it could not be fetched: {clean}; try again", uri=uri)
