"""Resources that a function reaches by the name that they share, and not as a captured input."""

from __future__ import annotations

import gc
from pathlib import Path
from typing import Any

import numpy as np
import tensorflow as tf

import asyncload
from asyncload.events import FellBack


class Named(tf.saved_model.experimental.TrackableResource):
    """A resource whose handle functions make anew, by its name."""

    def __init__(self, name: str, value: float) -> None:
        super().__init__()
        self.name, self.value = name, value

    def _create_resource(self) -> Any:
        return tf.raw_ops.VarHandleOp(
            dtype=tf.float32, shape=[], shared_name=self.name, container="own"
        )

    def _initialize(self) -> None:
        tf.raw_ops.AssignVariableOp(resource=self.resource_handle, value=self.value)

    def _destroy_resource(self) -> None:
        tf.raw_ops.DestroyResourceOp(resource=self._create_resource(), ignore_lookup_error=True)


class Model(tf.Module):
    def __init__(self) -> None:
        super().__init__()
        self.one, self.two = Named("one", 1.0), Named("two", 2.0)
        self.scale = tf.Variable(3.0)

    @tf.function(input_signature=[])  # type: ignore[untyped-decorator]
    def add(self) -> Any:
        handle = self.one._create_resource()
        tf.raw_ops.AssignAddVariableOp(resource=handle, value=10.0)
        return self.inner() + tf.raw_ops.ReadVariableOp(resource=handle, dtype=tf.float32)

    @tf.function(input_signature=[])  # type: ignore[untyped-decorator]
    def inner(self) -> Any:
        handle = self.two._create_resource()
        return self.scale * tf.raw_ops.ReadVariableOp(resource=handle, dtype=tf.float32)


async def test_they_are_made_for_the_signatures_that_reach_them(tmp_path: Path) -> None:
    model = Model()
    tf.saved_model.save(model, tmp_path / "m", signatures=model.add)
    del model
    gc.collect()
    root = tf.saved_model.load(tmp_path / "m")  # its signatures do not keep its resources
    stock = root.signatures["serving_default"]
    task = asyncload.prefetch(tmp_path / "m")
    served = await task
    assert not [event async for event in task.events() if isinstance(event, FellBack)]
    for _ in range(2):
        assert np.asarray(served()["output_0"]) == np.asarray(stock()["output_0"])
    again = await asyncload.load(tmp_path / "m", shared=False)
    assert float(np.asarray(again()["output_0"])) == 17.0  # they share no state with the first
