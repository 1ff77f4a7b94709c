"""The first call of a model, made before anybody waits for its answer.

TensorFlow instantiates a function when it is first called: it inlines what it calls, optimises the
graph, and makes kernels, for seconds. Inputs for that call are the caller's, those that were saved
with a SavedModel for TensorFlow Serving (``assets.extra/tf_serving_warmup_requests``, records of
tensorflow_serving/apis/prediction_log.proto), or zeros of the shapes that the model says it takes.
"""

from __future__ import annotations

import struct
from collections.abc import Iterator, Mapping
from typing import Any

import tensorflow as tf
from tensorflow.core.framework import tensor_pb2

from asyncload.codecs import crc32c, unmasked
from asyncload.errors import Corrupt

from . import CannotWarmUp, _private
from ._messages import declare, parse
from .quiet import quiet
from .runtime import calls_functions
from .served import Signature, Signatures

__all__ = ["read_requests", "warm_up"]

_DEFAULT = "serving_default"

_MESSAGES = declare(
    "asyncload.warmup",
    {
        "PredictionLog": {"predict_log": (6, False, "PredictLog")},
        "PredictLog": {"request": (1, False, "PredictRequest")},
        "PredictRequest": {"model_spec": (1, False, "ModelSpec"), "inputs": (2, True, "Input")},
        "ModelSpec": {"signature_name": (3, False, str)},
        "Input": {"key": (1, False, str), "value": (2, False, bytes)},
    },
)
# A record: length, its checksum, the data, its checksum (tensorflow/core/lib/io/record_writer.h).
_LENGTH, _CHECKSUM = struct.Struct("<Q"), struct.Struct("<I")


def warm_up(model: Any, inputs: Any, requests: bytes | None, *, uri: str) -> None:
    """Call a model.

    Args:
        model: `Signatures`, or a ``keras.Model``, which is called and asked to predict.
        inputs: what to call it with: for signatures a mapping of input names, or of signature
            names to such; ``True`` for the requests that were saved, or else zeros.
        requests: the content of the SavedModel's file of requests, if it has one.
        uri: for messages.

    Raises:
        Corrupt: the requests are damaged.
        CannotWarmUp: there are no inputs, and zeros cannot be made or do not do.
        Exception: what the model raised on the caller's inputs.
    """
    with quiet():
        if isinstance(model, Signatures):
            _warm_signatures(model, inputs, requests, uri)
        else:
            _warm_keras(model, inputs)


def _warm_signatures(model: Signatures, inputs: Any, requests: bytes | None, uri: str) -> None:
    if inputs is not True:
        for signature, given in _callers(model, inputs):
            _finish(signature(**given))
    elif requests is not None:
        for name, given in read_requests(requests, uri=uri):
            if name in model:
                _finish(model[name](**given))
    else:
        for signature in model.answering():
            _try_zeros(signature)


def _callers(model: Signatures, inputs: Any) -> Iterator[tuple[Signature, Mapping[str, Any]]]:
    """Yield what the caller gave for each signature."""
    if isinstance(inputs, Mapping) and inputs.keys() <= model.keys() and inputs:
        yield from ((model[name], given) for name, given in inputs.items())
        return
    signature = model[_DEFAULT] if _DEFAULT in model else next(iter(model.values()))
    if isinstance(inputs, Mapping):
        yield signature, inputs
    else:
        yield signature, {next(iter(signature.inputs)): inputs}


def _try_zeros(signature: Signature) -> None:
    try:
        _finish(signature(**{name: _zeros(spec) for name, spec in signature.inputs.items()}))
    except (tf.errors.OpError, TypeError, ValueError) as error:
        raise CannotWarmUp(
            f"signature {signature.name!r} does not take zeros ({_short(error)}); give it inputs "
            "with warmup={...}"
        ) from error


def _zeros(spec: Any) -> Any:
    """Return zeros (or empty texts) of a shape that fits; what it leaves open is 1."""
    if spec.shape.rank is None:
        raise ValueError(f"input {spec.name!r} may have any shape")
    return tf.zeros([1 if size is None else size for size in spec.shape], spec.dtype)


def _finish(outputs: Any) -> None:
    """Wait until all of the outputs are computed."""
    for tensor in tf.nest.flatten(outputs, expand_composites=True):
        if tf.is_tensor(tensor) and tensor.dtype not in (tf.resource, tf.variant):
            tensor.numpy()


def _short(error: Exception) -> str:
    return f"{type(error).__name__}: {' '.join(str(error).split())[:200]}"


# --- Keras ---------------------------------------------------------------------------------


def _warm_keras(model: Any, inputs: Any) -> None:
    if inputs is not True:
        _call_keras(model, inputs)
        return
    specs = getattr(model, "inputs", None)
    if not specs:
        raise CannotWarmUp("the model does not say what it takes; give it inputs with warmup=")
    try:
        zeros = [tf.zeros([size or 1 for size in spec.shape], spec.dtype) for spec in specs]
        structure = getattr(model, "_inputs_struct", specs[0])  # a Sequential has but one input
        _call_keras(model, tf.nest.pack_sequence_as(structure, zeros))
    except (tf.errors.OpError, TypeError, ValueError) as error:
        raise CannotWarmUp(
            f"the model does not take zeros ({_short(error)}); give it inputs with warmup="
        ) from error


def _call_keras(model: Any, inputs: Any) -> None:
    _finish(model(inputs, training=False))
    if not calls_functions():
        raise CannotWarmUp(
            "TensorFlow had started before this process was forked, so that predict would hang"
        )
    model.predict(inputs, verbose=0)


# --- requests ------------------------------------------------------------------------------


def read_requests(content: bytes, *, uri: str) -> Iterator[tuple[str, dict[str, Any]]]:
    """Yield (name of the signature, its inputs) of every request to predict.

    Raises:
        Corrupt: the records are damaged.
    """
    for record in _records(content, uri):
        log = parse(_MESSAGES["PredictionLog"], record, uri=uri)
        request = log.predict_log.request
        if request.inputs:
            inputs = {
                each.key: _private.constant(parse(tensor_pb2.TensorProto, each.value, uri=uri))
                for each in request.inputs
            }
            yield request.model_spec.signature_name or _DEFAULT, inputs


def _records(content: bytes, uri: str) -> Iterator[bytes]:
    position = 0
    while position < len(content):
        header = _piece(content, position, _LENGTH.size, uri)
        (length,) = _LENGTH.unpack(header)
        position += len(header) + _CHECKSUM.size
        data = _piece(content, position, length, uri)
        position += length + _CHECKSUM.size
        yield data


def _piece(content: bytes, position: int, length: int, uri: str) -> bytes:
    """Return a part of a record, compared with the checksum behind it."""
    end = position + length
    if end + _CHECKSUM.size > len(content):
        raise Corrupt("has warm-up requests that end within a record", uri=uri)
    data = content[position:end]
    (stated,) = _CHECKSUM.unpack_from(content, end)
    if crc32c(data) != unmasked(stated):
        raise Corrupt("has warm-up requests with a wrong checksum", uri=uri)
    return data
