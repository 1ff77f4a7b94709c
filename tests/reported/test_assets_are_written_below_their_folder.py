"""Assets are written below their folder or not at all, whoever named them."""

from __future__ import annotations

import json
import tempfile
from pathlib import Path

import keras
import pytest

import asyncload
from asyncload.materialize.keras import ModelBuild, capture_scopes


@pytest.mark.parametrize(
    ("assets", "kind"),
    [
        ({"../outside": b""}, asyncload.Unsafe),
        ({"/tmp/outside": b""}, asyncload.Unsafe),
        ({"a/../../outside": b""}, asyncload.Unsafe),
        ({"a\0b": b""}, asyncload.Unsafe),
        ({"a//b": b""}, asyncload.Unsafe),
        ({"x" * 300: b""}, asyncload.SourceError),
        ({"a": b"", "a/b": b""}, asyncload.SourceError),
        ({"a/b": b"", "a": b""}, asyncload.SourceError),
    ],
)
def test_what_leads_elsewhere_is_refused(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    assets: dict[str, bytes],
    kind: type[asyncload.AsyncloadError],
) -> None:
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    model = keras.Sequential([keras.Input((2,)), keras.layers.Flatten()])
    config = json.dumps(keras.saving.serialize_keras_object(model)).encode()
    build = ModelBuild(
        uri="m.keras",
        custom_objects=None,
        compile=False,
        safe_mode=True,
        scopes=capture_scopes(),
    )
    build.read({"config.json": config})
    build.construct()
    with pytest.raises(kind, match="the asset") as caught:
        build.bind({}, assets)
    assert caught.value.uri == "m.keras"
    assert list(tmp_path.iterdir()) == []
