"""Protocol buffers declared here, with just the fields that are asked for."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from google.protobuf import descriptor_pb2, descriptor_pool, message, message_factory

from asyncload.errors import Corrupt

__all__ = ["Schema", "declare", "parse"]

# Message -> field -> (number, whether it is repeated, type). A type is bytes, str, int, or the
# name of another message of the schema. What is declared as bytes may be a message on the wire: it
# has the same form there, and stays as it is.
Schema = Mapping[str, Mapping[str, tuple[int, bool, Any]]]

_Field = descriptor_pb2.FieldDescriptorProto
_SCALARS = {bytes: _Field.TYPE_BYTES, str: _Field.TYPE_STRING, int: _Field.TYPE_INT64}


def declare(package: str, schema: Schema) -> dict[str, Any]:
    """Return the class of each message of a schema, by its name."""
    file = descriptor_pb2.FileDescriptorProto(
        name=f"{package}.proto", package=package, syntax="proto3"
    )
    for name, fields in schema.items():
        declared = file.message_type.add(name=name)
        for field, (number, repeated, kind) in fields.items():
            added = declared.field.add(name=field, number=number)
            added.label = _Field.LABEL_REPEATED if repeated else _Field.LABEL_OPTIONAL
            if isinstance(kind, str):
                added.type, added.type_name = _Field.TYPE_MESSAGE, f".{package}.{kind}"
            else:
                added.type = _SCALARS[kind]
    pool = descriptor_pool.DescriptorPool()
    pool.Add(file)
    return {
        name: message_factory.GetMessageClass(pool.FindMessageTypeByName(f"{package}.{name}"))
        for name in schema
    }


def parse(kind: Any, data: bytes | memoryview, *, uri: str) -> Any:
    """Parse a message.

    Args:
        kind: its class.
        data: its bytes.
        uri: for messages.

    Raises:
        Corrupt: they are no such message.
    """
    try:
        return kind.FromString(bytes(data))
    except message.DecodeError as error:
        raise Corrupt(
            f"is damaged: no {kind.DESCRIPTOR.name} where one is expected ({error}). Copy or "
            "export the model again.",
            uri=uri,
        ) from error
