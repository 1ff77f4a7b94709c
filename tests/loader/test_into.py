"""`load_into`: what Keras' ``load_weights`` gives a model."""

from __future__ import annotations

import functools
import warnings
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from typing import Any

import h5py
import keras
import numpy as np
import pytest
import safetensors.numpy
import tensorflow as tf

import asyncload
from asyncload import FormatError, MismatchError, NotFound
from tests import keras_2
from tests.equality import same_bytes
from tests.live import (
    SUFFIXES,
    Values,
    dense,
    functional,
    same,
    save,
    scramble,
    stock,
    train,
    unchanged,
    values,
)
from tests.zoo import ZOO

# Where something does not fit, Keras says so in passing, and NumPy something of Keras.
pytestmark = [
    pytest.mark.filterwarnings("ignore:Skipping nested container:UserWarning"),
    pytest.mark.filterwarnings("ignore:__array__ implementation:DeprecationWarning"),
]


@pytest.fixture
async def loader() -> AsyncIterator[asyncload.Loader]:
    async with asyncload.Loader(executor="thread") as made:
        yield made


# Name of a model in the zoo -> endings of the files it is loaded from; stock takes a second for
# each ".keras".
KINDS = {
    "sequential": (".keras", ".weights.h5", ".h5", ".weights.json"),
    "nested_compiled": (".weights.h5", ".h5", ".weights.json"),
    "recurrent": (".weights.h5", ".h5"),
    "preprocessing": (".keras", ".weights.h5", ".h5"),
    "text": (".keras", ".h5"),
    "int4": (".weights.h5", ".h5"),
    "float8": (".h5",),
    "bfloat16": (".weights.h5", ".weights.json"),
    "frozen_and_averaged": (".weights.h5", ".h5"),
    "loss_scaled": (".weights.h5",),
    "subclassed": (".weights.h5", ".h5", ".weights.json"),
    "custom": (".keras", ".weights.h5", ".h5"),
}
Case = tuple[Any, dict[Path, Values]]  # a model, and what stock makes of it from each file


@pytest.fixture(scope="module")
def zoo(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Case]:
    folder = tmp_path_factory.mktemp("into")

    @functools.cache
    def make(name: str) -> Case:
        model = ZOO[name]()
        paths = [save(model, folder / f"{name}{suffix}") for suffix in KINDS[name]]
        return model, {path: stock(model, path) for path in paths}

    return make


# --- the same as load_weights ------------------------------------------------------------


@pytest.mark.parametrize("name", KINDS)
@pytest.mark.either_loop
async def test_values_equal_those_of_load_weights(
    name: str, zoo: Callable[[str], Case], loader: asyncload.Loader
) -> None:
    model, expected = zoo(name)
    for path, found in expected.items():
        assert not same(scramble(model), found)
        await loader.load_into(model, path)
        assert same(values(model), found), path


async def test_bfloat16_of_a_legacy_file_which_stock_cannot_load(
    loader: asyncload.Loader, tmp_path: Path
) -> None:
    model = ZOO["bfloat16"]()
    expected = values(model)
    path = save(model, tmp_path / "m.h5")
    with pytest.raises(ValueError, match="cast"):
        stock(model, path)
    scramble(model)
    await loader.load_into(model, path)
    assert same(values(model), expected)


async def test_what_is_computed_from_the_values(
    zoo: Callable[[str], Case], loader: asyncload.Loader
) -> None:
    """Normalization computes its mean from variables when they are loaded."""
    model, files = zoo("preprocessing")
    scale = next(layer for layer in model.layers if type(layer).__name__ == "Normalization")
    path = next(path for path in files if path.suffix == ".h5")
    stock(model, path)
    expected = np.asarray(scale.mean)
    for each in files:
        scale.mean = None
        scramble(model)
        await loader.load_into(model, each)
        assert same_bytes(np.asarray(scale.mean), expected), each


async def test_a_layer(loader: asyncload.Loader, tmp_path: Path) -> None:
    model = keras.Sequential([keras.Input((3,)), keras.layers.Dense(2)])
    model.save_weights(tmp_path / "m.weights.h5")
    layer = keras.layers.Dense(2)
    layer.build((None, 3))
    with (
        h5py.File(tmp_path / "l.weights.h5", "w") as file,
        h5py.File(tmp_path / "m.weights.h5") as whole,
    ):
        whole.copy("layers/dense/vars", file, "vars")
    await loader.load_into(layer, tmp_path / "l.weights.h5")
    assert same_bytes(layer.kernel.numpy(), model.layers[0].kernel.numpy())


async def test_the_default_loader(tmp_path: Path) -> None:
    model = dense()
    model.save_weights(tmp_path / "m.weights.h5")
    expected = values(model)
    scramble(model)
    await asyncload.load_into(model, tmp_path / "m.weights.h5")
    assert same(values(model), expected)
    await asyncload.aclose()


async def test_numbers_of_another_type_are_cast(loader: asyncload.Loader, tmp_path: Path) -> None:
    model = dense()
    with h5py.File(tmp_path / "m.weights.h5", "w") as file:
        for name, layer in (("dense", model.layers[0]), ("dense_1", model.layers[1])):
            for number, weight in enumerate(layer.weights):
                value = np.random.default_rng(number).random(weight.shape)
                file[f"layers/{name}/vars/{number}"] = value.astype(["f8", "f2"][number])
    expected = stock(model, tmp_path / "m.weights.h5")
    scramble(model)
    await loader.load_into(model, tmp_path / "m.weights.h5")
    assert same(values(model), expected)


async def test_what_was_traced_stays_traced(loader: asyncload.Loader, tmp_path: Path) -> None:
    model = dense()
    traces = []

    @tf.function  # type: ignore[untyped-decorator]
    def call(x: Any) -> Any:
        traces.append(x)
        return model(x)

    x = tf.ones((1, 3))
    model.save_weights(tmp_path / "m.weights.h5")
    expected = call(x).numpy()
    scramble(model)
    assert not same_bytes(call(x).numpy(), expected)
    await loader.load_into(model, tmp_path / "m.weights.h5")
    assert same_bytes(call(x).numpy(), expected)
    assert len(traces) == 1


async def test_the_model_trains_on(loader: asyncload.Loader, tmp_path: Path) -> None:
    """Variables share the memory of the load until they are first updated."""
    model = dense()
    model.compile(keras.optimizers.SGD(0.1, momentum=0.9), "mse")
    x, y = np.ones((4, 3), "f4"), np.ones((4, 2), "f4")
    model.fit(x, y, verbose=0)
    model.save_weights(tmp_path / "m.weights.h5")
    model.fit(x, y, verbose=0)
    expected = values(model)
    await loader.load_into(model, tmp_path / "m.weights.h5")
    model.fit(x, y, verbose=0)
    assert same(values(model)[:5], expected[:5])


# --- by name, and with what does not fit ----------------------------------------------------


@pytest.mark.parametrize("whole", [True, False])
async def test_by_name(whole: bool, loader: asyncload.Loader, tmp_path: Path) -> None:
    path = tmp_path / "m.h5"
    if whole:
        functional("a", "b", "c").save(path)
    else:
        rng = np.random.default_rng(0)
        keras_2.save_weights(
            path,
            {name: {"k:0": rng.random((3, 3), "f4"), "b:0": rng.random(3, "f4")} for name in "abc"},
        )
    model = functional("c", "other", "a")
    expected = stock(model, path, by_name=True)
    before = scramble(model)
    await loader.load_into(model, path, by_name=True)
    assert same(values(model), expected)
    assert same(values(model)[2:4], before[2:4])
    assert not same(values(model)[:2], before[:2])
    scramble(model)
    await loader.load_into(model, path)
    assert not same(values(model), expected)


async def test_by_name_with_layers_that_do_not_fit(
    loader: asyncload.Loader, tmp_path: Path
) -> None:
    path = tmp_path / "m.h5"
    functional("a", "b", "c").save(path)
    model = functional("a", "b", "c", widths=(3, 5, 3))
    with pytest.warns(UserWarning, match="mismatch"):
        expected = stock(model, path, by_name=True, skip_mismatch=True)
    scramble(model)
    with unchanged(model), pytest.raises(MismatchError, match=r"\(3, 5\).*\n.*\(5,\).*\n.*\(5, 3"):
        await loader.load_into(model, path, by_name=True)
    with pytest.warns(UserWarning, match=r"left as it was(.*\n){3}"):
        await loader.load_into(model, path, by_name=True, skip_mismatch=True)
    assert same(values(model), expected)


async def test_by_name_with_other_numbers_of_weights(
    loader: asyncload.Loader, tmp_path: Path
) -> None:
    path = tmp_path / "m.h5"
    functional("a", "b", "c").save(path)
    inputs = keras.Input((3,))
    x = keras.layers.Dense(3, use_bias=False, name="b")(inputs)
    model = keras.Model(inputs, keras.layers.Dense(3, name="a")(x))
    with pytest.warns(UserWarning, match="mismatch"):
        expected = stock(model, path, by_name=True, skip_mismatch=True)
    scramble(model)
    with unchanged(model), pytest.raises(MismatchError, match=r"b has 1 weights.* has 2"):
        await loader.load_into(model, path, by_name=True)
    with pytest.warns(UserWarning, match="b has 1 weights"):
        await loader.load_into(model, path, by_name=True, skip_mismatch=True)
    assert same(values(model), expected)


@pytest.mark.parametrize("suffix", SUFFIXES)
async def test_skip_mismatch(suffix: str, loader: asyncload.Loader, tmp_path: Path) -> None:
    path = tmp_path / f"m{suffix}"
    saved = functional("a", "b", "c")
    save(saved, path)
    model = functional("a", "b", "c", widths=(3, 3, 7))
    with pytest.warns(UserWarning, match="mismatch|could not be loaded"):
        expected = stock(model, path, skip_mismatch=True)
    before = scramble(model)
    with unchanged(model), pytest.raises(MismatchError, match=r"\(3, 7\)(.*\n)*.*\(7,\)"):
        await loader.load_into(model, path)
    with pytest.warns(UserWarning, match="left as it was"):
        await loader.load_into(model, path, skip_mismatch=True)
    assert same(values(model), expected)
    assert same(values(model)[4:], before[4:])
    assert not same(values(model), before)


async def test_an_optimizer_that_is_another_stays(loader: asyncload.Loader, tmp_path: Path) -> None:
    model = dense()
    train(model)
    model.save_weights(tmp_path / "m.weights.h5")
    model.compile("sgd", "mse")
    with pytest.warns(UserWarning, match="Skipping variable loading for optimizer"):
        expected = stock(model, tmp_path / "m.weights.h5")
    scramble(model)
    with pytest.warns(UserWarning, match="Skipping variable loading for optimizer"):
        await loader.load_into(model, tmp_path / "m.weights.h5")
    assert same(values(model), expected)


# --- files whose names are paths of variables -------------------------------------------------


@pytest.mark.parametrize("suffix", [".npz", ".safetensors"])
async def test_by_the_paths_of_variables(
    suffix: str, loader: asyncload.Loader, tmp_path: Path
) -> None:
    model = dense()
    named = {variable.path: variable.numpy() for variable in model.weights}
    path = tmp_path / f"m{suffix}"
    if suffix == ".npz":
        np.savez(path, **named)
    else:
        safetensors.numpy.save_file(named, path)
    expected = values(model)
    scramble(model)
    await loader.load_into(model, path)
    assert same(values(model), expected)


async def test_paths_that_do_not_fit(loader: asyncload.Loader, tmp_path: Path) -> None:
    model = dense()
    named = {variable.path: variable.numpy() for variable in model.weights}
    first, second = list(named)[:2]
    named[second] = np.ones(9)
    named["more"] = named.pop(first)
    np.savez(tmp_path / "m.npz", **named)
    with unchanged(model), pytest.raises(MismatchError) as caught:
        await loader.load_into(model, tmp_path / "m.npz")
    for words in ("more: the model has no", f"{first} has (3, 4)", f"{second} has (4,)", "(9,)"):
        assert words in str(caught.value)
    with pytest.warns(UserWarning, match="more"):
        await loader.load_into(model, tmp_path / "m.npz", skip_mismatch=True)


async def test_paths_of_more_than_one_variable(loader: asyncload.Loader, tmp_path: Path) -> None:
    layers = [keras.layers.Dense(3, name="twin") for _ in range(2)]
    for layer in layers:
        layer.build((None, 3))

    class Pair(keras.layers.Layer):
        def __init__(self) -> None:
            super().__init__()
            self.pair = layers
            self.built = True

    named: dict[str, Any] = {"twin/kernel": np.ones((3, 3)), "twin/bias": np.ones(3)}
    np.savez(tmp_path / "m.npz", **named)
    with pytest.raises(MismatchError, match="twin/kernel is the path of more than one variable"):
        await loader.load_into(Pair(), tmp_path / "m.npz")


# --- what cannot be loaded into what --------------------------------------------------------------


async def test_targets_of_other_kinds(loader: asyncload.Loader, tmp_path: Path) -> None:
    model = dense()
    for suffix in (".weights.h5", ".h5"):
        path = tmp_path / f"m{suffix}"
        save(model, path)
        with pytest.raises(TypeError, match=r"keras\.(Layer|Model).*builtins\.dict"):
            await loader.load_into({}, path)
    layer = keras.layers.Dense(3)
    with pytest.raises(TypeError, match=r"keras\.Model.*Dense"):
        await loader.load_into(layer, tmp_path / "m.h5")
    with pytest.raises(MismatchError, match="not built"):
        await loader.load_into(layer, tmp_path / "m.weights.h5")


async def test_files_of_other_kinds(loader: asyncload.Loader, tmp_path: Path) -> None:
    np.save(tmp_path / "m.npy", np.ones(3))
    with pytest.raises(FormatError, match="format npy, which cannot be loaded into"):
        await loader.load_into(dense(), tmp_path / "m.npy")
    with pytest.raises(NotFound):
        await loader.load_into(dense(), tmp_path / "absent.h5")


async def test_by_name_is_for_legacy_files(loader: asyncload.Loader, tmp_path: Path) -> None:
    model = dense()
    model.save_weights(tmp_path / "m.weights.h5")
    with pytest.raises(ValueError, match="by_name"):
        model.load_weights(tmp_path / "m.weights.h5", by_name=True)
    with (
        unchanged(model),
        pytest.raises(FormatError, match=r"by_name= of load_into\(\) is for legacy"),
    ):
        await loader.load_into(model, tmp_path / "m.weights.h5", by_name=True)


async def test_nothing_is_said_when_all_fits(loader: asyncload.Loader, tmp_path: Path) -> None:
    model = dense()
    model.save(tmp_path / "m.h5")
    with warnings.catch_warnings(record=True) as caught:
        await loader.load_into(model, tmp_path / "m.h5", skip_mismatch=True)
        await loader.load_into(model, tmp_path / "m.h5", by_name=True, skip_mismatch=True)
    assert not caught
