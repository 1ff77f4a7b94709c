"""What obstore says about objects, in our own errors, and without what is secret."""

from __future__ import annotations

import re
from collections.abc import Iterable

from obstore import exceptions

from asyncload.errors import AccessDenied, NotFound, SourceError, TransferFailed

from ._object_version import changed

__all__ = ["translated"]

_DEBUG = re.compile(r"\s*\n\nDebug source:.*", re.DOTALL)
_USER = re.compile(r"(https?://)[^/\s\"@]*@")
_QUERY = re.compile(r"(https?://[^\s\"?]*)\?[^\s\"]*")
_STATUS = re.compile(r"status code: (\d{3})")
_CODE = re.compile(r"<Code>([A-Za-z0-9_.]{1,64})</Code>")  # of S3, GCS and Azure alike
_BODY = re.compile(r"(status code: \d{3} ?[A-Za-z -]*):.*", re.DOTALL)
_METADATA_HOSTS = (
    "169.254.169.254",
    "169.254.170.2",
    "metadata.google.internal",
    "[fd00:ec2::254]",
)
_EXPIRED = ("ExpiredToken", "RequestTimeTooSkewed", "TokenRefreshRequired", "ExpiredTokenException")
# What of the client's own report tells a cause -> how to say it, and what to do.
_CAUSES = (
    (
        ("Requested ", "ontent-Range", "CONTENT_RANGE"),
        "its server, or a cache before it, does ranges wrongly; load a copy from disk",
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
    code = _CODE.search(text)
    text = _BODY.sub(r"\1", _DEBUG.sub("", text))
    text = _QUERY.sub(r"\1", _USER.sub(r"\1", text))
    for secret in secrets:
        text = text.replace(secret, "***")
    return type(error)(f"{text} ({code[1]})" if code else text)


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
    code = found_code[1] if (found_code := _CODE.search(text)) else ""
    if any(host in text for host in _METADATA_HOSTS):
        return AccessDenied(
            "no credentials were found for it; set those of the environment, pass them as "
            "storage_options={...}, or storage_options={'anonymous': True} for what is public",
            uri=uri,
        )
    if isinstance(error, exceptions.PreconditionError) or (pinned and status in (404, 416)):
        return changed(uri, "was removed" if status == 404 else "was replaced")
    if isinstance(error, FileNotFoundError) or status == 404:
        return _not_found(status, code, uri)
    denied = (exceptions.PermissionDeniedError, exceptions.UnauthenticatedError)
    if isinstance(error, denied) or status in (401, 403) or code in (*_EXPIRED, "InvalidToken"):
        return _denied(status, code, uri)
    if isinstance(error, exceptions.UnknownConfigurationKeyError):
        return SourceError(f"storage_options has what this store does not take: {clean}", uri=uri)
    if status is None:
        return _unanswered(text, clean, uri)
    return _by_status(status, code, uri)


def _answer(status: int | None, code: str) -> str:
    named = f", {code}" if code else ""
    return f"the store answered {status}{named}" if status else "the store refused"


def _not_found(status: int | None, code: str, uri: str) -> SourceError:
    if status == 405:
        return SourceError("the server lets nobody read it (405); check the URL", uri=uri)
    what = "bucket" if code in ("NoSuchBucket", "ContainerNotFound") else "object"
    return NotFound(f"there is no such {what}; check the name, case included", uri=uri)


def _denied(status: int | None, code: str, uri: str) -> AccessDenied:
    if code in _EXPIRED:
        remedy = "the credentials have expired, or this machine's clock is wrong; renew them"
    else:
        remedy = "check the credentials, and that they may read it (or list, for a folder)"
    return AccessDenied(f"{_answer(status, code)}: {remedy}", uri=uri)


def _by_status(status: int, code: str, uri: str) -> SourceError:
    answer = _answer(status, code)
    if status in (429, 503):
        remedy = "it is overloaded, retries included; lower storage_options['concurrency']"
    elif status in (301, 307, 400):
        remedy = "check region, endpoint and credentials"
    elif status >= 500 or status == 408:
        remedy = "it failed, retries included; try again later"
    else:
        remedy = "check the URI"
    return TransferFailed(f"{answer}: {remedy}", uri=uri)


def _unanswered(text: str, clean: Exception, uri: str) -> TransferFailed:
    for signs, meaning in _CAUSES:
        if any(sign in text for sign in signs):
            return TransferFailed(f"it could not be fetched: {meaning}", uri=uri)
    return TransferFailed(f"it could not be fetched: {clean}; try again", uri=uri)
