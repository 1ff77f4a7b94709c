"""Models that take the values of their next version equal those that are built."""

from __future__ import annotations

import gc
import random
import re
import threading
import time
import weakref
from collections.abc import Callable
from pathlib import Path
from typing import Any

import keras
import numpy as np
import pytest
import tensorflow as tf
from keras import layers

from asyncload.materialize import _blueprint
from asyncload.materialize._keras_blueprint import _Comparison
from asyncload.materialize._private import _rebind
from asyncload.materialize.keras import ModelBuild, capture_scopes
from asyncload.materialize.reuse import ReuseBuild, empty
from tests.equality import assert_same_model, same_bytes
from tests.live import same, scramble, train, unchanged, values, variables
from tests.materialize.test_model_build import Arrays, aligned, read
from tests.zoo import CUSTOM_OBJECTS, ZOO, save

Content = tuple[bytes, Arrays, dict[str, bytes]]  # config, arrays, assets


@pytest.fixture(scope="module")
def contents(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Content]:
    folder, known = tmp_path_factory.mktemp("reuse"), dict[str, Content]()

    def content(name: str) -> Content:
        if name not in known:
            known[name] = read(save(name, folder))
        return known[name]

    return content


def build(**options: Any) -> ModelBuild:
    defaults = {"custom_objects": CUSTOM_OBJECTS, "compile": True, "safe_mode": True}
    return ModelBuild(uri="model.keras", scopes=capture_scopes(), **{**defaults, **options})


def finish(made: Any, content: Content) -> Any:
    config, arrays, assets = content
    made.read({"config.json": config})
    made.construct()
    return made.bind(arrays, assets)


def fresh(content: Content, **options: Any) -> Any:
    return finish(build(**options), content)


def reuse(offered: Any, content: Content, **options: Any) -> tuple[Any, list[str]]:
    """Return what a load gives that is offered a model, and why it did not take it."""
    reasons: list[str] = []
    made = ReuseBuild(
        build(**options), offered, scopes=capture_scopes(), notice=reasons.append, uri="model.keras"
    )
    return finish(made, content), reasons


def retrained(content: Content, seed: int = 0, *, but: tuple[str, ...] = ()) -> Content:
    """Return the same model with other weights."""
    rng = np.random.default_rng(seed)
    config, arrays, assets = content

    def other(array: np.ndarray[Any, Any]) -> np.ndarray[Any, Any]:
        return aligned(rng.integers(0, 5, array.shape).astype(array.dtype))

    changed = {n: a if n.startswith(but) and but else other(a) for n, a in arrays.items()}
    return config, changed, assets


def read_of(model: Any, path: Path) -> Content:
    model.save(path)
    return read(path)


# What Keras computes of its variables once, and what was traced may hold.
BY_VALUE = {"preprocessing": "layers/normalization", "text": "layers/text_vectorization"}


@pytest.mark.parametrize("name", [name for name in ZOO if name != "custom"])
def test_equals_a_model_that_is_built(name: str, contents: Callable[[str], Content]) -> None:
    old, new = contents(name), retrained(contents(name), but=(BY_VALUE.get(name, "none"),))
    model = fresh(old)
    scramble(model)
    again, reasons = reuse(model, new)
    assert reasons == []
    assert again is model
    expected = fresh(new)
    assert_same_model(again, expected)
    for mine, theirs in zip(variables(again), variables(expected), strict=True):
        assert mine.trainable == theirs.trainable
        if "seed_generator" not in mine.path:
            assert same_bytes(mine.numpy(), theirs.numpy()), mine.path
    back, reasons = reuse(again, old)
    assert back is model
    assert reasons == []
    assert_same_model(back, fresh(old))


def test_pairs_at_random(contents: Callable[[str], Content]) -> None:
    """Whatever is offered, the result is the model that the file holds."""
    rng = random.Random(7)
    names = ["functional", "sequential", "shared_layer", "subclassed", "custom", "preprocessing"]
    taken = 0
    for _ in range(12):
        first = rng.choice(names)
        second = first if rng.random() < 0.5 else rng.choice(names)
        compiled = rng.random() < 0.5
        offered = fresh(contents(first), compile=compiled)
        new = retrained(contents(second), rng.randrange(100))
        if rng.random() < 0.5:
            empty(offered)
        model, reasons = reuse(offered, new, compile=compiled)
        assert (model is offered) == (reasons == [])
        assert model is not offered or first == second
        taken += model is offered
        assert_same_model(model, fresh(new, compile=compiled))
    assert 0 < taken < 12


# --- what stays ----------------------------------------------------------------------------


def test_what_was_traced_stays_traced(contents: Callable[[str], Content]) -> None:
    old, new = contents("functional"), retrained(contents("functional"))
    model, expected = fresh(old), fresh(new)
    x = np.random.default_rng(1).random((8, 16), "float32")
    own = tf.function(lambda batch: model(batch, training=False) * 2)
    first = model.predict(x, verbose=0), own(tf.constant(x)).numpy()
    handles = [variable._value.handle for variable in variables(model)]
    predict_function = model.predict_function
    for content in (new, old, new):
        assert empty(model)
        assert reuse(model, content)[0] is model
    found: list[Any] = []
    thread = threading.Thread(target=lambda: found.append(own(tf.constant(x)).numpy()))
    thread.start()
    thread.join()
    assert same_bytes(model.predict(x, verbose=0), expected.predict(x, verbose=0))
    assert not same_bytes(model.predict(x, verbose=0), first[0])
    stock = tf.function(lambda batch: expected(batch, training=False) * 2)
    assert same_bytes(found[0], stock(tf.constant(x)).numpy())
    assert own.experimental_get_tracing_count() == 1
    assert model.predict_function is predict_function
    assert predict_function.experimental_get_tracing_count() == 1
    for variable, handle in zip(variables(model), handles, strict=True):
        assert variable._value.handle is handle


def test_training_goes_on_as_after_a_load(contents: Callable[[str], Content]) -> None:
    old, new = contents("functional"), retrained(contents("functional"))
    x, y = np.random.default_rng(1).random((8, 16), "float32"), np.ones((8, 3), "float32")
    model, expected = fresh(old), fresh(new)
    model.fit(x, y, epochs=2, verbose=0)
    model.evaluate(x, y, verbose=0)
    assert any(variable.numpy().any() for variable in model.metrics_variables)
    assert reuse(model, new)[0] is model
    assert not any(variable.numpy().any() for variable in model.metrics_variables)
    mine, theirs = (m.fit(x, y, epochs=2, shuffle=False, verbose=0) for m in (model, expected))
    assert mine.history == theirs.history
    assert same(values(model), values(expected))


def test_seeds_begin_anew(contents: Callable[[str], Content], tmp_path: Path) -> None:
    inputs = keras.Input((4,))
    outputs = layers.Dropout(0.5)(layers.Dropout(0.5, seed=3)(inputs))
    content = read_of(keras.Model(inputs, layers.Dense(2)(outputs)), tmp_path / "m.keras")
    model = fresh(content)
    fixed, drawn = (
        next(v for v in layer.variables if "seed" in v.path)
        for layer in sorted(model.layers[1:3], key=lambda layer: layer.seed is None)
    )
    before = drawn.numpy()
    model(np.ones((2, 4)), training=True)
    assert fixed.numpy()[1]
    assert reuse(model, content)[0] is model
    assert fixed.numpy().tolist() == [3, 0]
    assert drawn.numpy()[1] == 0
    assert drawn.numpy()[0] != before[0]


# --- memory --------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["functional", "preprocessing", "int8", "loss_scaled"])
def test_an_emptied_model_keeps_no_memory(name: str, contents: Callable[[str], Content]) -> None:
    config, arrays, assets = retrained(contents(name))
    model = fresh((config, arrays, assets))
    kept = [weakref.ref(array) for array in arrays.values()]
    arrays.clear()
    assert empty(model)
    assert [reference() for reference in kept if reference() is not None] == []
    assert empty(model)  # twice is fine


def test_an_emptied_model_says_so_and_is_refilled(contents: Callable[[str], Content]) -> None:
    model = fresh(contents("functional"))
    x = np.ones((2, 16), "float32")
    traced = tf.function(lambda batch: model(batch, training=False))
    expected = model.predict(x, verbose=0), traced(tf.constant(x)).numpy()
    assert empty(model)
    with pytest.raises(tf.errors.OpError):
        model.predict(x, verbose=0)
    with pytest.raises(tf.errors.OpError):
        traced(tf.constant(x))
    with pytest.raises(Exception):  # noqa: B017, PT011 - of Keras or TensorFlow
        model(x)
    assert reuse(model, contents("functional"))[0] is model
    assert same_bytes(model.predict(x, verbose=0), expected[0])
    assert same_bytes(traced(tf.constant(x)).numpy(), expected[1])


def test_what_cannot_be_refilled_is_not_emptied(contents: Callable[[str], Content]) -> None:
    for model in (fresh(contents("custom")), ZOO["shared_layer"]()):
        with unchanged(model):
            assert not empty(model)
    assert not empty(object())


def test_values_are_not_copied(contents: Callable[[str], Content]) -> None:
    model = fresh(contents("functional"), compile=False)
    new = retrained(contents("functional"))
    assert reuse(model, new, compile=False)[0] is model
    addresses = {array.ctypes.data for array in new[1].values()}
    for variable in model.weights:
        own = np.asarray(memoryview(variable.value.read_value()))
        assert own.ctypes.data in addresses, variable.path


# --- all or nothing ------------------------------------------------------------------------


@pytest.mark.parametrize("emptied", [False, True])
def test_a_failure_halfway_changes_nothing(
    emptied: bool, contents: Callable[[str], Content], monkeypatch: pytest.MonkeyPatch
) -> None:
    model = fresh(contents("functional"))
    if emptied:
        empty(model)
    stock, calls = _rebind._assign, 0

    def failing(holder: Any, value: Any) -> None:
        nonlocal calls
        calls += 1
        if calls == 7:
            raise MemoryError("no more")
        stock(holder, value)

    monkeypatch.setattr(_rebind, "_assign", failing)
    before = values(model)
    with pytest.raises(MemoryError):
        reuse(model, retrained(contents("functional")))
    assert calls == 14  # as many back
    assert same(values(model), before)
    monkeypatch.undo()
    assert reuse(model, contents("functional"))[0] is model
    assert_same_model(model, fresh(contents("functional")))


def test_calls_meanwhile_end_or_raise(contents: Callable[[str], Content]) -> None:
    """Whoever uses a retired model after all gets an error or an answer, and no crash."""
    old, new = contents("convolutional"), retrained(contents("convolutional"))
    model = fresh(old)
    x = np.ones((2, 16, 16, 3), "float32")
    traced = tf.function(lambda batch: model(batch, training=False))
    traced(tf.constant(x))
    model.predict(x, verbose=0)
    calls = (lambda: traced(tf.constant(x)), lambda: model(x), lambda: model.predict_on_batch(x))
    stop, wrong = threading.Event(), list[BaseException]()

    def keep_calling(call: Callable[[], Any]) -> None:
        while not stop.is_set():
            try:
                np.asarray(call())
            except (tf.errors.OpError, ValueError):
                pass
            except BaseException as error:  # noqa: BLE001 - shown below
                wrong.append(error)

    threads = [threading.Thread(target=keep_calling, args=(call,)) for call in calls]
    for thread in threads:
        thread.start()
    deadline = time.monotonic() + 2
    while time.monotonic() < deadline:
        empty(model)
        for content in (new, old):
            assert reuse(model, content)[0] is model
    stop.set()
    for thread in threads:
        thread.join()
    assert wrong == []
    assert same(values(model), values(fresh(old)))


# --- what is left as it is -----------------------------------------------------------------


def freeze(model: Any) -> None:
    model.layers[1].trainable = False


def compile_again(model: Any) -> None:
    model.compile("sgd", "mse")


def enable_lora(model: Any) -> None:
    model.layers[-1].enable_lora(2)


def quantize(model: Any) -> None:
    model.layers[-1].quantize("int8")


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        (freeze, "trainable of 'dense"),
        (compile_again, "the compilation of"),
        (enable_lora, "of 'dense"),
        (quantize, "of 'dense"),
    ],
)
def test_a_model_that_was_changed(
    change: Callable[[Any], None], reason: str, contents: Callable[[str], Content]
) -> None:
    model, new = fresh(contents("functional")), retrained(contents("functional"))
    change(model)
    with unchanged(model):
        again, reasons = reuse(model, new)
    assert again is not model
    assert reason in reasons[0]
    assert_same_model(again, fresh(new))


def test_layers_that_were_adapted_since(contents: Callable[[str], Content]) -> None:
    model = fresh(contents("preprocessing"))
    scale = next(layer for layer in model.layers if isinstance(layer, layers.Normalization))
    scale.adapt(np.random.default_rng(2).random((50, 4), "float32"))
    again, reasons = reuse(model, contents("preprocessing"))
    assert again is not model
    assert "of 'normalization" in reasons[0]


@pytest.mark.parametrize("name", BY_VALUE)
def test_what_traced_functions_hold_by_value(name: str, contents: Callable[[str], Content]) -> None:
    old, new = contents(name), retrained(contents(name))
    model = fresh(old)
    with unchanged(model):
        again, reasons = reuse(model, new)
    assert again is not model
    assert BY_VALUE[name] in reasons[0]
    assert_same_model(again, fresh(new))


def test_other_vocabularies(contents: Callable[[str], Content]) -> None:
    config, arrays, assets = contents("preprocessing")
    name = next(name for name in assets if b"b" in assets[name])
    changed = {**assets, name: assets[name].replace(b"b", b"z")}
    model = fresh((config, arrays, assets))
    again, reasons = reuse(model, (config, arrays, changed))
    assert again is not model
    assert "vocabularies" in reasons[0]
    lookup = next(layer for layer in again.layers if isinstance(layer, layers.StringLookup))
    assert "z" in lookup.get_vocabulary()


def test_a_layer_that_loads_in_its_own_way(contents: Callable[[str], Content]) -> None:
    model = fresh(contents("custom"))
    again, reasons = reuse(model, contents("custom"))
    assert again is not model
    assert "Unregistered loads its state in its own way" in reasons[0]


def test_another_shape_or_another_tensor(contents: Callable[[str], Content]) -> None:
    config, arrays, assets = contents("shared_layer")
    model = fresh((config, arrays, assets))
    for changed in (
        {**arrays, "more/vars/0": aligned(np.ones(3))},
        {name: aligned(array.astype("float64")) for name, array in arrays.items()},
    ):
        again, reasons = reuse(model, (config, changed, assets))
        assert again is not model
        assert "other tensors" in reasons[0]
        assert_same_model(again, fresh((config, changed, assets)))


def test_other_options_and_settings(contents: Callable[[str], Content]) -> None:
    content = contents("functional")
    model = fresh(content)
    for options, reason in (
        ({"compile": False}, "compile="),
        ({"safe_mode": False}, "safe_mode="),
        ({"custom_objects": {}}, "custom_objects="),
    ):
        again, reasons = reuse(model, content, **options)
        assert again is not model
        assert reason in reasons[0]
    keras.config.set_epsilon(1e-6)
    try:
        assert "settings of Keras" in reuse(model, content)[1][0]
    finally:
        keras.config.set_epsilon(1e-7)
    assert reuse(model, content)[0] is model


@pytest.mark.parametrize("safe_mode", [True, False])
def test_a_class_of_the_same_name(safe_mode: bool, contents: Callable[[str], Content]) -> None:
    content = contents("subclassed")
    model = fresh(content, safe_mode=safe_mode)
    block = type(model.blocks[0])

    class Other(block):  # type: ignore[misc, valid-type]
        """A new definition."""

    with keras.saving.custom_object_scope({"zoo>Block": Other}):
        # The model's own class makes its blocks itself, whatever the scope says.
        again, reasons = reuse(model, content, safe_mode=safe_mode)
    assert reasons == []
    assert again is model
    with keras.saving.custom_object_scope({"zoo>Subclassed": type("Own", (type(model),), {})}):
        again, reasons = reuse(model, content, safe_mode=safe_mode)
    assert "classes by the same names" in reasons[0]
    assert type(again).__name__ == "Own"


@pytest.fixture
def lowered(contents: Callable[[str], Content], tmp_path: Path) -> Content:
    model = fresh(contents("functional"))
    model.optimizer.learning_rate = 0.25
    return read_of(model, tmp_path / "m.keras")


def test_a_learning_rate_that_was_lowered_is_a_value(
    lowered: Content, contents: Callable[[str], Content]
) -> None:
    assert lowered[0] != contents("functional")[0]
    model = fresh(contents("functional"))
    again, reasons = reuse(model, lowered)
    assert reasons == []
    assert again is model
    assert_same_model(again, fresh(lowered))


def test_another_compilation_does_not_matter_if_it_is_not_followed(
    contents: Callable[[str], Content], tmp_path: Path
) -> None:
    other = fresh(contents("shared_layer"))
    train(other)
    model = fresh(contents("shared_layer"), compile=False)
    content = read_of(other, tmp_path / "m.keras")
    without = {n: a for n, a in content[1].items() if not n.startswith("optimizer")}
    assert reuse(model, (content[0], without, {}), compile=False)[0] is model


def test_another_architecture(contents: Callable[[str], Content], tmp_path: Path) -> None:
    model = fresh(contents("shared_layer"))
    again, reasons = reuse(model, contents("sequential"))
    assert again is not model
    assert "different configs" in reasons[0]
    again, reasons = reuse(ZOO["shared_layer"](), contents("shared_layer"))
    assert "none that asyncload has built" in reasons[0]


def test_offered_to_two_at_once(contents: Callable[[str], Content]) -> None:
    content = contents("shared_layer")
    model = fresh(content)
    first, second = (
        ReuseBuild(
            build(), model, scopes=capture_scopes(), notice=lambda _: None, uri="model.keras"
        )
        for _ in range(2)
    )
    for made in (first, second):
        made.read({"config.json": content[0]})
        made.construct()
    made_by = [made.bind(content[1], content[2]) for made in (second, first)]
    assert made_by[0] is not model
    assert made_by[1] is model
    assert reuse(model, content)[0] is model  # it is free again


def test_a_model_is_remembered_no_longer_than_it_lives(contents: Callable[[str], Content]) -> None:
    model = fresh(contents("shared_layer"), compile=False)
    key, gone = id(model), weakref.ref(model)
    assert key in _blueprint._known
    reuse(model, contents("shared_layer"), compile=False)
    del model
    gc.collect()
    assert gone() is None
    assert key not in _blueprint._known


def test_shared_objects_are_compared_and_their_addresses_are_not(
    contents: Callable[[str], Content],
) -> None:
    config, arrays, assets = contents("functional")
    assert b'"shared_object_id": ' in config
    model = fresh((config, arrays, assets))
    elsewhere = re.sub(rb'("shared_object_id": )(\d+)', rb"\g<1>7\2", config)
    assert elsewhere != config
    assert reuse(model, (elsewhere, arrays, assets))[0] is model
    policies = re.sub(rb', "shared_object_id": \d+', b"", config)
    assert reuse(model, (policies, arrays, assets))[0] is model


def test_configs_that_say_the_same_in_many_ways(contents: Callable[[str], Content]) -> None:
    config, arrays, assets = contents("functional")
    model = fresh((config, arrays, assets))
    texts = [config + b" " * number for number in range(12)]
    for text in [*texts, *texts[:2], texts[-1], texts[-1]]:
        assert reuse(model, (text, arrays, assets))[0] is model
    other = config.replace(b'"relu"', b'"tanh"')
    assert other != config
    for text in (other, config, other):
        again, reasons = reuse(model, (text, arrays, assets))
        assert (again is model) is (text == config)
        assert again is model or "different configs" in reasons[0]


def _nodes(first: int, second: int, kind: str = "Dense") -> Any:
    node = {"module": "keras", "class_name": kind, "config": {"units": 1}}
    return [{**node, "shared_object_id": number} for number in (first, second)]


@pytest.mark.parametrize(
    ("one", "other", "expected"),
    [
        (_nodes(1, 1), _nodes(8, 8), True),
        (_nodes(1, 2), _nodes(8, 9), True),
        (_nodes(1, 1), _nodes(8, 9), False),
        (_nodes(1, 2), _nodes(8, 8), False),
        (_nodes(1, 2, "DTypePolicy"), _nodes(8, 8, "DTypePolicy"), True),
        ({"a": 1}, {"a": 1.0}, False),
        ({"a": True}, {"a": 1}, False),
        ({"a": 1, "b": 2}, {"b": 2, "a": 1}, False),
        ({"a": [1, {}]}, {"a": [1, {}]}, True),
        ({"a": [1, {}]}, {"a": [1]}, False),
    ],
)
def test_what_two_configs_say(one: Any, other: Any, expected: bool) -> None:
    comparison = _Comparison()
    assert (comparison.same(one, other) and comparison.one_to_one) is expected


def test_a_class_like_no_other_is_loaded_all_the_same(
    contents: Callable[[str], Content], monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*_: Any) -> None:
        raise AttributeError("no such thing")

    monkeypatch.setattr(_rebind, "_parts", fail)
    model = fresh(contents("shared_layer"))
    assert_same_model(model, fresh(contents("shared_layer")))
    assert not empty(model)
