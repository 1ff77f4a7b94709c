"""Profiles of ``~/.aws/credentials`` and ``~/.aws/config``, as AWS' own tools read them."""

from __future__ import annotations

import configparser
import os
from collections.abc import Mapping
from pathlib import Path

from asyncload.errors import SourceError

__all__ = ["read_profile"]

_WANTED = (
    "aws_access_key_id",
    "aws_secret_access_key",
    "aws_session_token",
    "region",
    "endpoint_url",
)


def read_profile(name: str | None) -> Mapping[str, str]:
    """Return what the files say of a profile: keys, ``region``, ``endpoint_url``.

    Args:
        name: of the profile; ``None`` for ``default``, which need not be there.

    Raises:
        SourceError: a file cannot be parsed, or none has the profile.

    Source: https://docs.aws.amazon.com/sdkref/latest/guide/file-format.html
    """
    files = (
        _parse("AWS_CONFIG_FILE", "config"),
        _parse("AWS_SHARED_CREDENTIALS_FILE", "credentials"),
    )
    profile = name or "default"
    found: dict[str, str] = {}
    known = False
    for file in files:
        for section in (profile, f"profile {profile}"):
            if file.has_section(section):
                known = True
                found.update({key: file.get(section, key) for key in file[section]})
    if name is not None and not known:
        raise SourceError(f"the AWS files have no profile {name!r}; check AWS_PROFILE")
    return {key: found[key] for key in _WANTED if found.get(key)}


def _parse(variable: str, name: str) -> configparser.RawConfigParser:
    path = Path(os.environ.get(variable) or Path.home() / ".aws" / name).expanduser()
    parser = configparser.RawConfigParser(default_section="")
    try:
        parser.read_string(path.read_text())
    except FileNotFoundError:
        pass
    except (OSError, UnicodeDecodeError, configparser.Error) as error:
        # Of the parser's errors only the type: they quote the lines.
        raise SourceError(f"{path} cannot be read ({type(error).__name__})") from None
    return parser
