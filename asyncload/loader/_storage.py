"""``storage_options``: those of a Loader, and what a call says beside them."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from asyncload.memory import parse_size
from asyncload.sources import StorageOptions

__all__ = ["merge_options"]


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
