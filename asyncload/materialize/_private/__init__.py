"""Every private API of TensorFlow and Keras that asyncload uses, and the test that it still works.

What stands here moves between releases. `fast_path()` tries all of it on a small model
when it is first needed; if anything differs from stock, the caller takes the stock path:
slower, same result.

Nine things are private:

- ``EagerTensor(array, ...)`` aliases a 64-byte-aligned array instead of copying it;
- a `ResourceVariable` is put together from a handle, without an initial value;
- in a `Skeleton`, and on that thread only, Keras variables are made without running
  their initialisers;
- in a `Skeleton`, an optimizer that needs a variable has it initialised after all;
- in a `Skeleton`, plain attributes of a layer skip Keras' and TensorFlow's tracking,
  which would look at each and leave it as it is;
- what Keras asks of a class for each of its layers is answered once (`_lookups`);
- Keras' walk over a model's state visits each attribute of each layer, and computes what
  to skip anew for each (``saving_lib.get_attr_skipset`` writes its cache under another name
  than it reads, Keras 3.15). `StateLoader` runs Keras' own ``_load_state``, with a walk that
  yields the same children in the same order from what is known of the class;
- models that Keras 2 described are made by the functions of Keras' own legacy loader (`_legacy`);
- a variable that lives gets its new value through ``AssignVariableOp`` (`_assign`).
"""

from __future__ import annotations

from ._assign import Recording, Snapshot, recording
from ._build import Skeleton, capture_scopes, compile_as_saved, deserialize, is_registered
from ._legacy import build_legacy, compile_legacy, is_part_of_keras, parse_legacy
from ._selftest import fast_path
from ._state import StateLoader, StateStore, loads_its_own_way
from ._variables import as_tensor

__all__ = [
    "Recording",
    "Skeleton",
    "Snapshot",
    "StateLoader",
    "StateStore",
    "as_tensor",
    "build_legacy",
    "capture_scopes",
    "compile_as_saved",
    "compile_legacy",
    "deserialize",
    "fast_path",
    "is_part_of_keras",
    "is_registered",
    "loads_its_own_way",
    "parse_legacy",
    "recording",
]
