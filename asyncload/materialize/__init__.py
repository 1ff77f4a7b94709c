"""Tensors and documents become models. The only room that imports TensorFlow and Keras.

- ``quiet``     how a load keeps the garbage collector and the thread switch out of the loop's way
- ``_trust``    what a model's config may name (pure; imports no TensorFlow)
- ``_private``  every private API of TensorFlow and Keras that is used here, self-tested
- ``keras``     builds a ``keras.Model`` and binds its weights
- ``keras_h5``  the same for legacy HDF5 files
- ``keras_into``  puts new values into a model that lives
"""

__all__ = ["CannotBuildFast"]


class CannotBuildFast(Exception):
    """The model has to be loaded by Keras itself; the message says why."""
