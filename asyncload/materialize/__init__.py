"""Tensors and documents become models. The only room that imports TensorFlow and Keras.

- ``quiet``     how a load keeps the garbage collector and the thread switch out of the loop's way
- ``_trust``    what a model's config may name (pure; imports no TensorFlow)
- ``_private``  every private API of TensorFlow and Keras that is used here, self-tested
- ``_turns``    one build at a time
- ``keras``     builds a ``keras.Model`` and binds its weights
- ``trackables``  puts a checkpoint's values into any object that ``tf.train.Checkpoint`` takes
- ``whole``     loads a SavedModel as ``tf.saved_model.load`` does
"""

__all__ = ["CannotBuildFast"]


class CannotBuildFast(Exception):
    """The model has to be loaded by Keras itself; the message says why."""
