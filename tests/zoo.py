"""Keras models of every kind that loads, small, each saved by Keras itself."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import keras
import numpy as np
from keras import layers

__all__ = ["CUSTOM_OBJECTS", "ZOO", "Unregistered", "save"]

_rng = np.random.default_rng(0)


def _fit(model: Any, inputs: int, outputs: int, optimizer: Any = "adam", **options: Any) -> Any:
    model.compile(optimizer, "mse", **options)
    x = _rng.random((16, inputs), "float32")
    model.fit(x, _rng.random((16, outputs), "float32"), epochs=2, batch_size=8, verbose=0)
    return model


def functional() -> Any:
    x = inputs = keras.Input((16,))
    for _ in range(3):
        y = layers.Dense(16, activation="relu")(x)
        y = layers.BatchNormalization()(y)
        y = layers.Dropout(0.1, seed=7)(y)
        x = layers.Add()([x, y])
    return _fit(keras.Model(inputs, layers.Dense(3)(x)), 16, 3)


def sequential() -> Any:
    model = keras.Sequential([keras.Input((8,)), layers.Dense(8), layers.Dense(2)])
    return _fit(model, 8, 2, keras.optimizers.Nadam(0.01), metrics=["mae"])


def deferred_sequential() -> Any:
    model = keras.Sequential([layers.Dense(8), layers.Dense(2)])
    model.build((None, 4))
    return model


def shared_layer() -> Any:
    shared = layers.Dense(6, name="shared")
    a, b = keras.Input((5,), name="a"), keras.Input((5,), name="b")
    return keras.Model([a, b], layers.Concatenate()([shared(a), shared(b)]))


def many_inputs_and_outputs() -> Any:
    a, b = keras.Input((4,), name="left"), keras.Input((6,), name="right")
    joined = layers.Concatenate()([layers.Dense(3)(a), layers.Dense(3)(b)])
    return keras.Model(
        {"left": a, "right": b},
        {"x": layers.Dense(1, name="x")(joined), "y": layers.Dense(2, name="y")(joined)},
    )


def nested() -> Any:
    inner = keras.Sequential([keras.Input((4,)), layers.Dense(4), layers.Dense(4)], name="inner")
    middle = keras.Input((4,))
    deeper = keras.Model(middle, layers.Dense(2)(inner(middle)), name="deeper")
    inputs = keras.Input((4,))
    model = keras.Model(inputs, deeper(layers.Dense(4)(inputs)))
    return _fit(model, 4, 2, keras.optimizers.SGD(momentum=0.9))


def nested_compiled() -> Any:
    inner = _fit(keras.Sequential([keras.Input((4,)), layers.Dense(4)]), 4, 4)
    inputs = keras.Input((4,))
    return _fit(keras.Model(inputs, layers.Dense(1)(inner(inputs))), 4, 1)


def convolutional() -> Any:
    x = inputs = keras.Input((16, 16, 3))
    for width in (8, 8):
        x = layers.SeparableConv2D(width, 3, padding="same")(x)
        x = layers.DepthwiseConv2D(3)(x)
        x = layers.GroupNormalization(4)(x)
    x = layers.Conv2DTranspose(4, 3)(x)
    x = layers.SpectralNormalization(layers.Conv2D(4, 3))(x)
    return keras.Model(inputs, layers.GlobalAveragePooling2D()(x))


def recurrent() -> Any:
    inputs = keras.Input((5,), dtype="int32")
    x = layers.Embedding(20, 8, mask_zero=True)(inputs)
    x = layers.Bidirectional(layers.LSTM(4, return_sequences=True))(x)
    x = layers.RNN([layers.GRUCell(3), layers.SimpleRNNCell(2)])(x)
    return keras.Model(inputs, x)


def attention() -> Any:
    inputs = keras.Input((6, 8))
    x = layers.MultiHeadAttention(2, 4)(inputs, inputs)
    x = layers.EinsumDense("abc,cd->abd", output_shape=(None, 8), bias_axes="d")(x)
    x = layers.LayerNormalization()(x + inputs)
    return keras.Model(inputs, layers.TimeDistributed(layers.Dense(2))(x))


def preprocessing() -> Any:
    scale = layers.Normalization()
    scale.adapt(_rng.random((50, 4), "float32"))
    words, numbers = layers.StringLookup(), layers.IntegerLookup()
    words.adapt(["a", "b", "c", "b"])
    numbers.adapt([3, 5, 7, 5])
    buckets = layers.Discretization(num_bins=4)
    buckets.adapt(_rng.random((50, 1), "float32"))
    floats, texts = keras.Input((4,)), keras.Input((1,), dtype="string")
    ints, wide = keras.Input((1,), dtype="int64"), keras.Input((1,))
    parts = [
        scale(floats),
        layers.Flatten()(layers.Embedding(8, 4)(words(texts))),
        layers.Flatten()(layers.Embedding(8, 2)(numbers(ints))),
        layers.Flatten()(layers.Embedding(8, 2)(buckets(wide))),
    ]
    joined = layers.Concatenate()(parts)
    return keras.Model([floats, texts, ints, wide], layers.Dense(2)(joined))


def text() -> Any:
    vectorize = layers.TextVectorization(output_mode="tf_idf", max_tokens=10)
    vectorize.adapt(["the cat sat", "the dog ran", "a cat ran"])
    inputs = keras.Input((1,), dtype="string")
    return keras.Model(inputs, layers.Dense(2)(vectorize(inputs)))


def _quantized(mode: str) -> Any:
    model = keras.Sequential([layers.Dense(32), layers.Dense(16)])
    model.build((None, 64))
    for layer in model.layers:
        layer.quantize(mode)
    return model


def int8() -> Any:
    return _quantized("int8")


def int4() -> Any:
    return _quantized("int4")


def float8() -> Any:
    return _quantized("float8")


def bfloat16() -> Any:
    return keras.Sequential(
        [
            keras.Input((16,)),
            layers.Dense(16, dtype="bfloat16"),
            layers.Dense(8, dtype="mixed_bfloat16"),
            layers.Dense(4, dtype="float16"),
            layers.Dense(4, dtype="float64"),
        ]
    )


def lora() -> Any:
    model = keras.Sequential([keras.Input((16,)), layers.Dense(16), layers.Dense(4)])
    model.layers[0].enable_lora(4)
    return model


def frozen_and_averaged() -> Any:
    model = keras.Sequential([keras.Input((4,)), layers.Dense(4), layers.Dense(2)])
    model.layers[0].trainable = False
    return _fit(model, 4, 2, keras.optimizers.AdamW(use_ema=True, gradient_accumulation_steps=2))


def loss_scaled() -> Any:
    model = keras.Sequential([keras.Input((4,)), layers.Dense(2, dtype="mixed_float16")])
    return _fit(model, 4, 2, keras.optimizers.LossScaleOptimizer(keras.optimizers.RMSprop()))


@keras.saving.register_keras_serializable("zoo")
class Block(layers.Layer):
    """A layer with layers of its own, a list of them, and a weight."""

    def __init__(self, width: int, **options: Any) -> None:
        super().__init__(**options)
        self.width = width
        self.inner = layers.Dense(width, activation="gelu")
        self.rest = [layers.Dense(width), {"norm": layers.LayerNormalization()}]
        self.drop = layers.Dropout(0.1, seed=3)

    def build(self, shape: Any) -> None:
        self.inner.build(shape)
        self.rest[0].build(shape)
        self.rest[1]["norm"].build(shape)
        self.scale = self.add_weight(shape=(self.width,), initializer="ones", name="scale")
        self.built = True

    def call(self, x: Any) -> Any:
        return x + self.drop(self.rest[1]["norm"](self.rest[0](self.inner(x)))) * self.scale

    def get_config(self) -> dict[str, Any]:
        return {**super().get_config(), "width": self.width}


@keras.saving.register_keras_serializable("zoo")
class Subclassed(keras.Model):
    """A model that is no graph of layers."""

    def __init__(self, width: int = 8, **options: Any) -> None:
        super().__init__(**options)
        self.width = width
        self.blocks = [Block(width) for _ in range(2)]
        self.head = layers.Dense(3)
        self.extra = self.add_weight(shape=(width,), initializer="random_normal", name="extra")

    def call(self, x: Any) -> Any:
        for block in self.blocks:
            x = block(x)
        return self.head(x + self.extra)

    def get_config(self) -> dict[str, Any]:
        return {**super().get_config(), "width": self.width}


def subclassed() -> Any:
    return _fit(Subclassed(), 8, 3)


class Unregistered(layers.Layer):
    """A layer that Keras knows only by ``custom_objects``, with state saved its own way."""

    def build(self, shape: Any) -> None:
        self.kernel = self.add_weight(shape=(shape[-1], 2), name="kernel")
        self.calls = self.add_weight(shape=(), dtype="int32", initializer="zeros", trainable=False)
        self.note = np.zeros(3)

    def call(self, x: Any) -> Any:
        return keras.ops.matmul(x, self.kernel)

    def save_own_variables(self, store: Any) -> None:
        store["kernel"] = self.kernel
        store["calls"] = self.calls
        store["note"] = np.arange(3.0)

    def load_own_variables(self, store: Any) -> None:
        self.kernel.assign(store["kernel"])
        self.calls.assign(store["calls"])
        self.note = store["note"]


def custom() -> Any:
    inputs = keras.Input((4,))
    return keras.Model(inputs, Unregistered()(layers.Dense(4)(inputs)))


CUSTOM_OBJECTS = {"Unregistered": Unregistered}
ZOO: dict[str, Callable[[], Any]] = {
    make.__name__: make
    for make in (
        functional,
        sequential,
        deferred_sequential,
        shared_layer,
        many_inputs_and_outputs,
        nested,
        nested_compiled,
        convolutional,
        recurrent,
        attention,
        preprocessing,
        text,
        int8,
        int4,
        float8,
        bfloat16,
        lora,
        frozen_and_averaged,
        loss_scaled,
        subclassed,
        custom,
    )
}


def save(name: str, folder: Path) -> Path:
    """Save the model of this name with Keras, and return where."""
    path = folder / f"{name}.keras"
    ZOO[name]().save(path)
    return path
