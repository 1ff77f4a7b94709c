"""SavedModels whose program is text, for people to read: ``saved_model.pbtxt``."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
import tensorflow as tf
from google.protobuf import text_format
from tensorflow.core.protobuf import saved_model_pb2

import asyncload
from asyncload.sources import forget_memory, put_memory
from tests.reported.graph_models import examples, half_plus_two, in_a_session
from tests.reported.test_tensorflow_1 import assert_answers, load


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("text") / "m"
    half_plus_two(path, resource=True, as_text=True)
    assert not (path / "saved_model.pb").exists()
    return path


CALLS = [("regress_x_to_y", {"inputs": examples(1.0, 2.0)}), ("content", {})]


@pytest.mark.parametrize("name", ["", "saved_model.pbtxt"])
async def test_it_is_served_as_what_it_stands_for(name: str, model: Path) -> None:
    served, fallbacks = await load(model / name)
    assert fallbacks == []
    assert_answers(served, CALLS, in_a_session(model, CALLS))
    whole = await asyncload.load(model / name, whole=True)
    assert set(whole.signatures) == set(served)
    assert set(await asyncload.load_weights(model / name)) == {"a", "b", "c", "filename_tensor"}


@pytest.mark.parametrize("expanded", [False, True])
async def test_from_elsewhere_with_its_asset(expanded: bool, model: Path, tmp_path: Path) -> None:
    text = (model / "saved_model.pbtxt").read_text()
    if expanded:  # as a writer has it that knows the type of an asset
        asset = 'tensor_info { name: "Const:0" }\nfilename: "foo.txt"'
        kind = "type.googleapis.com/tensorflow.AssetFileDef"
        text, count = re.subn(
            rf'type_url: "{re.escape(kind)}"\n.*', f"[{kind}] {{ {asset} }}", text
        )
        assert count == 1
    files = {str(file.relative_to(model)): file for file in model.rglob("*") if file.is_file()}
    contents = {name: file.read_bytes() for name, file in files.items()}
    try:
        uri = put_memory("text", contents | {"saved_model.pbtxt": text.encode()})
        assert list((await asyncload.inspect(uri)).assets) == ["assets/foo.txt"]
        served, _ = await load(uri, trusted=True)
        assert_answers(served, CALLS, in_a_session(model, CALLS))
        copy = await asyncload.fetch(uri, tmp_path / "copy")
        again, _ = await load(copy, trusted=True)
        assert_answers(again, CALLS, in_a_session(model, CALLS))
    finally:
        forget_memory("text")


async def test_what_tensorflow_2_wrote(tmp_path: Path) -> None:
    module = tf.Module()
    module.factor = tf.Variable(3.0)
    module.f = tf.function(lambda x: {"y": x * module.factor}, input_signature=[tf.TensorSpec([])])
    tf.saved_model.save(module, tmp_path, signatures=module.f)
    binary = tmp_path / "saved_model.pb"
    parsed = saved_model_pb2.SavedModel.FromString(binary.read_bytes())
    binary.unlink()
    (tmp_path / "saved_model.pbtxt").write_text(text_format.MessageToString(parsed))
    served, fallbacks = await load(tmp_path)
    assert (fallbacks, float(served(tf.constant(2.0))["y"])) == ([], 6.0)


@pytest.mark.parametrize(
    "text", ["meta_graphs {", "}", "\x00", 'meta_graphs { "', "unknown_field: 1", "{" * 300]
)
async def test_what_is_no_such_text(text: str, tmp_path: Path) -> None:
    (tmp_path / "saved_model.pbtxt").write_text(text)
    with pytest.raises(asyncload.Corrupt, match=r": (is no|closes|ends within|has more)"):
        await asyncload.load(tmp_path)
