"""Models as Keras 2 described them, made by Keras 3's own legacy loader."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import Any

import keras
from absl import logging
from keras.src.backend.common import global_state
from keras.src.legacy.saving import json_utils, saving_options, saving_utils
from keras.src.saving import serialization_lib

from asyncload.materialize._long_lists import long_lists, put_back

from ._variables import Array

__all__ = ["build_legacy", "compile_legacy", "parse_legacy"]


def parse_legacy(text: bytes) -> Any:
    """Parse the JSON of a legacy config, in which some objects stand for tuples and shapes."""
    short, lists = long_lists(text)
    if not lists:
        return json_utils.decode(text)
    return json.loads(
        short, object_hook=lambda parsed: json_utils._decode_helper(put_back(parsed, lists))
    )


def build_legacy(config: Any, custom_objects: Mapping[str, Any], safe_mode: bool) -> Any:
    """Make the model of a parsed ``model_config``, which is changed by it."""
    legacy = saving_options.keras_option_scope(use_legacy_config=True)
    with legacy, serialization_lib.SafeModeScope(safe_mode):
        return saving_utils.model_from_config(config, custom_objects=_all(custom_objects))


def compile_legacy(
    model: Any,
    config: Any,
    custom_objects: Mapping[str, Any],
    optimizer_weights: Sequence[Array] | None,
) -> None:
    """Compile a model as ``load_model_from_hdf5`` does, and as little of its optimizer's state.

    Args:
        model: its variables have values.
        config: the parsed ``training_config``, which is changed by it.
        custom_objects: name -> class or function.
        optimizer_weights: in the file's order; ``None`` if the file has none.
    """
    model.compile(**saving_utils.compile_args_from_training_config(config, _all(custom_objects)))
    if optimizer_weights is None:
        return
    # Keras 3.15 gives an optimizer the model's own variables here, without those of its layers, so
    # that no slots are made: what is loaded is the iteration and the learning rate.
    model.optimizer.build(model._trainable_variables)
    try:
        model.optimizer.set_weights(optimizer_weights)
    except ValueError as error:
        logging.warning("The optimizer's state does not fit, and begins anew: %s", error)


def _all(custom_objects: Mapping[str, Any]) -> dict[str, Any]:
    scope = global_state.get_global_attribute("custom_objects_scope_dict", {})
    return {**custom_objects, **keras.saving.get_custom_objects(), **scope}
