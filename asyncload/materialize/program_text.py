"""A SavedModel's program that was written as text, for people to read: ``saved_model.pbtxt``."""

from __future__ import annotations

from google.protobuf import text_format
from tensorflow.core.protobuf import saved_model_pb2

from asyncload.errors import Corrupt

from ._turn import summary

__all__ = ["parse_program"]


def parse_program(text: bytes, *, uri: str) -> bytes:
    """Return the program as ``saved_model.pb`` would have it.

    Raises:
        Corrupt: it is no such text.
    """
    try:
        parsed = text_format.Parse(text, saved_model_pb2.SavedModel())
    except (text_format.ParseError, UnicodeDecodeError) as error:
        raise Corrupt(
            f"is no SavedModel as text: {summary(error)}. Copy or export the model again.", uri=uri
        ) from error
    return bytes(parsed.SerializeToString())
