"""How a Loader reaches stores: ``storage_options``, and the cache of objects."""

from __future__ import annotations

import os
from collections.abc import Mapping
from typing import Any

from asyncload.memory import parse_size
from asyncload.sources import ObjectCache, StorageOptions

__all__ = ["merge_options", "object_cache"]


def merge_options(general: Mapping[str, Any], own: Mapping[str, Any] | None) -> Mapping[str, Any]:
    """Return the Loader's options with those of a call, which come first.

    Raises:
        ValueError: one has a value that it cannot have.
    """
    merged = {**general, **(own or {})}
    if merged.get("part_size") is not None:
        merged["part_size"] = parse_size(merged["part_size"])
    StorageOptions.parse(merged)
    return merged


def object_cache(
    chosen: str, folder: str | os.PathLike[str] | None, limit: int | str, *, offline: bool
) -> ObjectCache | None:
    """Return the cache that a Loader is to have; its arguments are described there.

    Raises:
        ValueError: one has a value that it cannot have.
    """
    if chosen not in ("off", "read"):
        raise ValueError(f"cache is 'off' or 'read', not {chosen!r}")
    if chosen == "off" and not offline:
        return None
    return ObjectCache(folder, parse_size(limit), offline=offline)
