"""Texts for people: names of files and tensors are data, and may hold anything."""

from __future__ import annotations

__all__ = ["printable", "printable_lines"]


def printable(text: str) -> str:
    r"""Return a text with every character escaped that a terminal would obey: ``\x1b``, ``\n``.

    Names of stores, archives and tensors may hold such characters, and others that change how the
    text around them is read (right-to-left marks).
    """
    if text.isprintable():
        return text
    return "".join(
        sign if sign.isprintable() else sign.encode("unicode_escape").decode() for sign in text
    )


def printable_lines(text: str) -> str:
    """Return a text of several lines, escaped as `printable` does it but for the ends of lines."""
    return "\n".join(map(printable, text.split("\n")))
