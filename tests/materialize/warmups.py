"""Warm-up requests, written as TensorFlow Serving reads them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import tensorflow as tf
from tensorflow_serving.apis import predict_pb2, prediction_log_pb2, regression_pb2

__all__ = ["write_requests"]


def write_requests(model: Path, requests: Sequence[tuple[str, Mapping[str, Any]]]) -> Path:
    """Write requests to predict, and one of another kind, into a SavedModel's folder.

    Args:
        model: the folder.
        requests: of each, the signature's name (may be empty) and its inputs.
    """
    path = model / "assets.extra" / "tf_serving_warmup_requests"
    path.parent.mkdir(exist_ok=True)
    with tf.io.TFRecordWriter(str(path)) as writer:
        for signature, inputs in requests:
            request = predict_pb2.PredictRequest()
            request.model_spec.name = "model"
            request.model_spec.signature_name = signature
            for name, value in inputs.items():
                request.inputs[name].CopyFrom(tf.make_tensor_proto(value))
            predict = prediction_log_pb2.PredictLog(request=request)
            log = prediction_log_pb2.PredictionLog(predict_log=predict)
            writer.write(log.SerializeToString())
        regress = prediction_log_pb2.RegressLog(request=regression_pb2.RegressionRequest())
        writer.write(prediction_log_pb2.PredictionLog(regress_log=regress).SerializeToString())
    return path
