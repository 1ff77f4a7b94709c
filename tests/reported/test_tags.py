"""SavedModels with several graphs, which tags tell apart."""

from __future__ import annotations

from pathlib import Path

import keras
import numpy as np
import pytest
import tensorflow as tf

import asyncload
from asyncload.events import FellBack
from tests.reported.graph_models import signature

v1 = tf.compat.v1
X = tf.constant([1.0, 2.0])


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A SavedModel whose graphs share a variable, and multiply it by another factor."""
    return write(tmp_path_factory.mktemp("tags") / "m", ["serve"], ["train"], ["serve", "gpu"])


def write(path: Path, *sets: list[str]) -> Path:
    builder = v1.saved_model.Builder(str(path))
    for factor, tags in enumerate(sets, 1):
        with tf.Graph().as_default(), v1.Session() as session:
            x = v1.placeholder(tf.float32, [None], name="x")
            weight = v1.get_variable("w", initializer=2.0)
            made = {"serving_default": signature({"x": x}, {"y": x * weight * float(factor)})}
            session.run(v1.global_variables_initializer())
            if factor == 1:
                builder.add_meta_graph_and_variables(session, tags, made)
            else:
                builder.add_meta_graph(tags, made)
    builder.save()
    return path


@pytest.mark.parametrize(
    ("tags", "factor"),
    [
        (None, 1),
        ("serve", 1),
        (["train"], 2),
        ({"gpu", "serve"}, 3),
        (("serve", "gpu", "serve"), 3),
    ],
)
async def test_the_graph_with_exactly_these_tags(tags: object, factor: int, model: Path) -> None:
    options = {"tags": tags} if tags is not None else {}
    task = asyncload.prefetch(model, **options)  # type: ignore[arg-type]
    served = await task
    assert not [event async for event in task.events() if isinstance(event, FellBack)]
    assert np.array_equal(served(X)["y"], X * 2.0 * float(factor))
    whole = await asyncload.load(model, whole=True, **options)  # type: ignore[arg-type]
    assert np.array_equal(whole.signatures["serving_default"](x=X)["y"], served(X)["y"])


@pytest.mark.parametrize("whole", [False, True])
async def test_tags_that_no_graph_has(whole: bool, model: Path) -> None:
    says = r"\['gpu'\]; there are graphs with \['gpu', 'serve'\], \['serve'\], \['train'\]. .*tags="
    with pytest.raises(asyncload.FormatError, match=says):
        await asyncload.load(model, tags="gpu", whole=whole)


async def test_none_for_serving(tmp_path: Path) -> None:
    write(tmp_path / "m", ["train"], ["serve", "tpu"])
    with pytest.raises(asyncload.FormatError, match=r"\['serve'\]; there are.*tags="):
        await asyncload.load(tmp_path / "m")


async def test_the_only_graph_needs_no_tags(tmp_path: Path) -> None:
    write(tmp_path / "m", ["mine"])
    served = await asyncload.load(tmp_path / "m")
    assert np.array_equal(served(X)["y"], X * 2.0)
    with pytest.raises(asyncload.FormatError, match=r"\['serve'\]; there are graphs with"):
        await asyncload.load(tmp_path / "m", tags="serve")


async def test_a_graph_does_not_take_the_place_of_another(model: Path) -> None:
    one = await asyncload.load(model, tags="serve")
    other = await asyncload.load(model, tags="train", reuse=one)
    assert np.array_equal(other(X)["y"], X * 4.0)


async def test_what_tensorflow_2_wrote(tmp_path: Path) -> None:
    module = tf.Module()
    module.f = tf.function(lambda x: {"y": -x}, input_signature=[tf.TensorSpec([None])])
    tf.saved_model.save(module, tmp_path / "m", signatures=module.f)
    for options in ({}, {"tags": "serve"}):
        served = await asyncload.load(tmp_path / "m", **options)  # type: ignore[arg-type]
        assert np.array_equal(served(X)["y"], -X)
    with pytest.raises(asyncload.FormatError, match=r"\['train'\]; there are graphs with"):
        await asyncload.load(tmp_path / "m", tags=["train"], whole=True)


async def test_other_formats_have_no_tags(tmp_path: Path) -> None:
    keras.Sequential([keras.Input((2,)), keras.layers.Dense(1)]).save(tmp_path / "m.keras")
    with pytest.raises(TypeError, match="tags= of load"):
        await asyncload.load(tmp_path / "m.keras", tags="serve")
