"""What a store's or a server's status means, in our own errors."""

from __future__ import annotations

import re

from asyncload.errors import AccessDenied, NotFound, SourceError, TransferFailed

from ._object_version import changed

__all__ = ["by_status", "code_in", "denied", "is_denied", "not_found"]

_CODE = re.compile(r"<Code>([A-Za-z0-9_.]{1,64})</Code>")  # of S3, GCS and Azure alike
_EXPIRED = ("ExpiredToken", "RequestTimeTooSkewed", "TokenRefreshRequired", "ExpiredTokenException")


def code_in(text: str) -> str:
    """Return the code that a store's answer names beside its status; ``""`` for none."""
    found = _CODE.search(text)
    return found[1] if found else ""


def by_status(status: int, code: str, uri: str, *, pinned: bool = False) -> SourceError:
    """Return the error that an answer is.

    Args:
        status: of the answer.
        code: that it names.
        uri: for the message.
        pinned: whether a version was asked for that had been there.
    """
    error = _judged(status, code, uri, pinned)
    if status == 403 or not is_denied(status, code):
        error.status = status
    return error


def _judged(status: int, code: str, uri: str, pinned: bool) -> SourceError:
    if status == 412 or (pinned and status in (404, 410, 416)):
        return changed(uri, "was removed" if status in (404, 410) else "was replaced")
    if status in (404, 410):
        return not_found(code, uri)
    if is_denied(status, code):
        return denied(status, code, uri)
    return _failed(status, code, uri)


def is_denied(status: int | None, code: str) -> bool:
    """Whether an answer refuses whoever asks, and not what is asked for."""
    return status in (401, 403) or code in (*_EXPIRED, "InvalidToken")


def not_found(code: str, uri: str) -> NotFound:
    """Return the error for what is not there."""
    what = "bucket" if code in ("NoSuchBucket", "ContainerNotFound") else "object"
    return NotFound(f"there is no such {what}; check the name, case included", uri=uri)


def denied(status: int | None, code: str, uri: str) -> AccessDenied:
    """Return the error for what may not be read."""
    if code in _EXPIRED:
        remedy = "the credentials have expired, or this machine's clock is wrong; renew them"
    else:
        remedy = "check the credentials, and that they may read it (or list, for a folder)"
    return AccessDenied(f"{_answer(status, code)}: {remedy}", uri=uri)


def _answer(status: int | None, code: str) -> str:
    named = f", {code}" if code else ""
    return f"the store answered {status}{named}" if status else "the store refused"


def _failed(status: int, code: str, uri: str) -> TransferFailed:
    answer = _answer(status, code)
    if status == 421:
        remedy = (
            "it redirects to another server, where nothing goes that was meant for this one; name "
            "that one as storage_options['endpoint']"
        )
    elif status in (429, 503):
        remedy = "it was overloaded at every try; lower storage_options['concurrency']"
    elif status in (301, 307, 400):
        remedy = "check region, endpoint and credentials"
    elif status >= 500 or status == 408:
        remedy = "it failed at every try; try again later"
    else:
        remedy = "check the URI"
    return TransferFailed(f"{answer}: {remedy}", uri=uri)
