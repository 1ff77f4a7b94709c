"""A config is data: with safe mode on, nothing that it names runs while it loads."""

from __future__ import annotations

import sys
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import keras
import pytest
import tensorflow as tf

import asyncload
from tests import keras_2
from tests.keras_archives import with_config

Node = dict[str, Any]
INPUT = {
    "class_name": "__keras_tensor__",
    "config": {"shape": [None, 4], "dtype": "float32", "keras_history": ["x", 0, 0]},
}


@pytest.fixture
async def loader() -> AsyncIterator[asyncload.Loader]:
    async with asyncload.Loader(executor="thread") as loader:
        yield loader


def function(module: str, name: str, **more: Any) -> Node:
    return {"module": module, "class_name": "function", "config": name, **more}


def layer(class_name: str, module: str = "keras.layers", **config: Any) -> Node:
    return {"module": module, "class_name": class_name, "config": config, "registered_name": None}


def called(node: Node, *args: Any, **kwargs: Any) -> Node:
    name = node["config"].setdefault("name", "y")
    return {**node, "name": name, "inbound_nodes": [{"args": list(args), "kwargs": kwargs}]}


def graph(*layers: Node) -> Node:
    first = layer("InputLayer", batch_shape=[None, 4], name="x")
    everything = [{**first, "name": "x", "inbound_nodes": []}, *layers]
    ends = {"input_layers": ["x", 0, 0], "output_layers": [everything[-1]["name"], 0, 0]}
    return layer("Functional", "keras.src.models.functional", name="m", layers=everything, **ends)


def sequence(*layers: Node, **more: Any) -> Node:
    first = layer("InputLayer", batch_shape=[None, 4], name="x")
    return layer("Sequential", "keras", name="m", layers=[first, *layers], **more)


@pytest.fixture(scope="module")
def archive(tmp_path_factory: pytest.TempPathFactory) -> Callable[[Path, Node], Path]:
    saved = tmp_path_factory.mktemp("saved") / "m.keras"
    keras.Sequential([keras.Input((4,)), keras.layers.ReLU()]).save(saved)
    return lambda folder, config: with_config(saved, folder / "m.keras", config)


class Marking(tf.saved_model.experimental.TrackableResource):
    """Writes a file whenever a SavedModel that holds it is loaded."""

    def __init__(self, marker: Path) -> None:
        super().__init__()
        self.marker = str(marker)

    def _create_resource(self) -> Any:
        return tf.raw_ops.VarHandleOp(dtype=tf.float32, shape=[], shared_name="marking")

    def _initialize(self) -> None:
        tf.io.write_file(self.marker, "ran")


@pytest.fixture
def program(tmp_path: Path) -> Iterator[str]:
    """A SavedModel that is seen to run, and was not when the test has ended."""
    module, marker = tf.Module(), tmp_path / "ran"
    module.resource = Marking(marker)
    module.call = tf.function(lambda x: x, input_signature=[tf.TensorSpec([], tf.float32)])
    tf.saved_model.save(module, tmp_path / "program")
    marker.unlink(missing_ok=True)
    tf.saved_model.load(tmp_path / "program")
    assert marker.exists()
    marker.unlink()
    yield str(tmp_path / "program")
    assert not marker.exists()


def ways_to_a_program(path: str) -> Iterator[Node]:
    """Configs that have a class called with the path, or with a tensor first."""
    for module in ("keras.layers", "builtins", "keras.src.export.tfsm_layer"):
        for name in ("TFSMLayer", "keras.layers.TFSMLayer"):
            reference = function(module, name)
            yield graph(called(layer("Lambda", function=reference), path))
            yield graph(called(layer("Lambda", function=reference), inputs=path))
            yield graph(called(layer("Lambda", function=reference), inputs=path, mask=INPUT))
            yield sequence(layer("Lambda", function=reference, arguments={"call_endpoint": "x"}))
            yield sequence(layer("Dense", units=1, kernel_initializer=reference))
    yield graph(called(layer("VectorizedMap", "keras.src.ops.core", function=reference), path))
    yield graph(called(layer("TFSMLayer", filepath=path), INPUT))
    hidden = layer("TFSMLayer", filepath=path)
    for config in ({"layer": hidden}, {"cell": hidden}, {"function": hidden}):
        yield sequence({**layer("Wrapper"), "config": config})
    yield {**sequence(), "build_config": {"x": hidden}}


@contextmanager
def refused(*words: str) -> Iterator[None]:
    with pytest.raises(asyncload.errors.FormatError) as caught:
        yield
    assert all(word in str(caught.value) for word in words), str(caught.value)


async def test_a_program_beside_the_model_does_not_run(
    program: str, archive: Callable[[Path, Node], Path], loader: asyncload.Loader, tmp_path: Path
) -> None:
    for config in ways_to_a_program(program):
        with refused("m.keras"):
            await loader.load(archive(tmp_path, config))


async def test_nor_by_a_legacy_file(program: str, loader: asyncload.Loader, tmp_path: Path) -> None:
    for config in ways_to_a_program(program):
        path = keras_2.save_model(tmp_path / "m.h5", {}, model_config=config)
        with refused("m.h5"):
            await loader.load(path)


# Functions that would reach files, change Keras, or call what they are given.
REACHING = (
    "keras.utils.get_file",
    "keras.saving.load_model",
    "keras.saving.deserialize_keras_object",
    "keras.config.enable_unsafe_deserialization",
    "keras.layers.deserialize",
    "keras.initializers.get",
    "keras.utils.set_random_seed",
    "keras.ops.ones",
    "keras.ops.fori_loop",
    "keras.ops.while_loop",
    "keras.ops.map",
    "keras.applications.vgg16.VGG16",
    "keras.tree.map_structure",
    "keras.callbacks.CSVLogger",
    "keras.initializers.Zeros",
)


async def test_only_functions_of_tensors_may_be_referred_to(
    archive: Callable[[Path, Node], Path], loader: asyncload.Loader, tmp_path: Path
) -> None:
    for name in REACHING:
        module, _, last = name.rpartition(".")
        for node in (function(module, last), layer(last, module)):
            if name == "keras.initializers.Zeros" and node["class_name"] == "Zeros":
                continue
            for config in (
                sequence(layer("Lambda", function=node)),
                sequence(layer("Activation", activation=node)),
                graph(called(layer("ReLU"), INPUT, 1.0, node)),
                {**sequence(), "compile_config": {"loss": node}},
            ):
                with refused("no part of a model", last):
                    await loader.load(archive(tmp_path, config))
    builtin = function("builtins", "deserialize", registered_name="function")
    with refused("no part of a model"):
        await loader.load(archive(tmp_path, sequence(layer("Activation", activation=builtin))))


async def test_one_name_does_not_cover_for_another(
    archive: Callable[[Path, Node], Path], loader: asyncload.Loader, tmp_path: Path
) -> None:
    """Keras goes by a function's name, and by a class's registered name."""
    own = {"own>Mine": keras.layers.ReLU}
    for node in (
        function("keras.saving", "load_model", registered_name="own>Mine"),
        function("own", "Mine", registered_name="load_model"),
        {**layer("load_model", "keras.saving"), "registered_name": None},
        {"class_name": "deserialize", "config": {"config": None}, "registered_name": "own>Mine"},
    ):
        with refused("m.keras"):
            await loader.load(archive(tmp_path, sequence(node)), custom_objects=own)


@pytest.mark.parametrize("kind", [".keras", ".h5"])
async def test_nothing_is_called_on_no_tensor(
    kind: str, archive: Callable[[Path, Node], Path], loader: asyncload.Loader, tmp_path: Path
) -> None:
    def never(*args: Any, **kwargs: Any) -> None:
        raise AssertionError("it was called")

    relu = layer("Lambda", function=function("builtins", "relu"))
    own = {"never": never}
    mine = layer("Lambda", function=function("builtins", "never"), output_shape=[4])
    full = layer("Full", "keras.src.ops.numpy", shape=[1 << 30])
    calls = [
        called(relu, 1.0),
        called(mine, "text"),
        called(mine, "text", mask=INPUT),
        called(mine),
        called(full, 0.0),
        called(full, {"class_name": "Wrapper", "config": {"layer": INPUT}}),
        {**called(mine), "inbound_nodes": [{"args": {"text": INPUT}, "kwargs": {}}]},
        {**called(mine), "inbound_nodes": [{}]},
        {**called(mine), "inbound_nodes": [[]]},
    ]
    for call in calls:
        config = graph(call)
        if kind == ".h5":
            path = keras_2.save_model(tmp_path / "m.h5", {}, model_config=config)
        else:
            path = archive(tmp_path, config)
        with refused("on no tensor", "safe_mode=False"):
            await loader.load(path, custom_objects=own)


async def test_arrays_are_as_large_as_what_is_written(
    archive: Callable[[Path, Node], Path], loader: asyncload.Loader, tmp_path: Path
) -> None:
    for dtype in ("(1000,1000,1000)f8", "S999999999", "V999999999", "f8,f8", None, ["f8"]):
        array = {"class_name": "__numpy__", "config": {"value": 0, "dtype": dtype}}
        with refused("dtype"):
            await loader.load(archive(tmp_path, sequence(layer("Rescaling", scale=array))))


async def test_a_package_of_models_is_not_imported_for_a_name(
    archive: Callable[[Path, Node], Path],
    loader: asyncload.Loader,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.syspath_prepend(tmp_path)
    marker = tmp_path / "ran"
    for package in ("keras_hub", "keras_cv", "keras_nlp"):
        (tmp_path / f"{package}.py").write_text(f"open({str(marker)!r}, 'w')")
        for node in (layer("Backbone", package), layer("Backbone", f"{package}.models")):
            with refused(package):
                await loader.load(archive(tmp_path, sequence(node)))
            with refused(package):
                path = keras_2.save_model(tmp_path / "m.h5", {}, model_config=sequence(node))
                await loader.load(path)
        assert package not in sys.modules
    assert not marker.exists()


async def test_what_the_program_registered_is_called_on_tensors(
    archive: Callable[[Path, Node], Path], loader: asyncload.Loader, tmp_path: Path
) -> None:
    def twice(x: Any) -> Any:
        return 2 * x

    def named(name: str) -> Path:
        own = layer("Lambda", function=function("builtins", name, registered_name="function"))
        return archive(tmp_path, graph(called(own, INPUT)))

    one = tf.ones((1, 4))
    model = await loader.load(named("twice"), custom_objects={"twice": twice})
    assert model(one).numpy().tolist() == [[2.0] * 4]
    # As Keras does for files of its versions before 3.7, which left packages out.
    model = await loader.load(named("twice"), custom_objects={"own>twice": twice}, shared=False)
    assert model(one).numpy().tolist() == [[2.0] * 4]
    model = await loader.load(named("relu6"))
    assert model(8 * one).numpy().tolist() == [[6.0] * 4]
