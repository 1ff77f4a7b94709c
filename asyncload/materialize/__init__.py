"""Tensors and documents become models. The only room that imports TensorFlow and Keras.

- ``quiet``       how a load keeps the garbage collector and the thread switch out of the loop's way
- ``_turn``       one build at a time, in the scopes of whoever asked for it
- ``_trust``      what a model's config may name (pure; imports no TensorFlow)
- ``_private``    every private API of TensorFlow and Keras that is used here, self-tested
- ``keras``       builds a ``keras.Model`` and binds its weights, as a ``_keras_build``
- ``keras_h5``    the same for legacy HDF5 files
- ``keras_into``  puts new values into a Keras model that lives
- ``signatures``  serves signatures of a SavedModel: ``_saved_model`` takes its protocol buffer
  apart, ``_serving_plan`` decides what is needed of it, ``_serving_functions`` registers the
  functions, ``_bound`` makes what they are bound to. What TensorFlow 1 wrote is a ``_graph_model``:
  ``_graph`` has its nodes, ``_graph_functions`` cuts functions out of it, ``_graph_plan`` decides
- ``served``      what users get of that (imports no TensorFlow)
- ``whole``       loads a SavedModel as ``tf.saved_model.load`` does
- ``trackables``  puts a checkpoint's values into any object that ``tf.train.Checkpoint`` takes
- ``warmup``      the first call of a model
- ``runtime``     whether TensorFlow can call functions in this process at all
- ``_messages``   protocol buffers of which only some fields are read
"""

__all__ = ["CannotBuildFast", "CannotWarmUp"]


class CannotBuildFast(Exception):
    """The model has to be loaded by TensorFlow or Keras itself; the message says why."""


class CannotWarmUp(Exception):
    """There are no inputs for a first call that would do; the message says why."""
