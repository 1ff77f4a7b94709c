"""Every private API of TensorFlow and Keras that asyncload uses, and the test that it still works.

What stands here moves between releases. Each part is tried on something small when it is first
needed (`fast_path`, `serving_path`, `trackables_work`, `saved_models_work`); if anything differs
from stock, the caller takes the stock path: slower, same result.

For all of them:

- what Keras and TensorFlow keep by thread is taken from whoever asks to the construction
  thread (`_caller`).

For Keras models:

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
- in a `Skeleton`, a lookup layer's many words are looked at and made a tensor of in parts
  (`_vocabularies`);
- what a name in a config stands for is looked up as Keras looks it up (`_names`);
- models that Keras 2 described are made by the functions of Keras' own legacy loader (`_legacy`);
- a variable that lives gets its new value through ``AssignVariableOp`` (`_assign`);
- what a dropped model leaves is found as the garbage collector finds it, and taken apart
  (`_dropped`);
- what a model has besides the values of its variables is known and compared, and a variable is
  emptied by a value of another shape (`_rebind`).

To serve signatures of SavedModels:

- functions are added to, called in and removed from the eager runtime by name (`_serving`);
- which attributes an operation has is asked of the registry of operations;
- handles of variables are made without variables; nested structures of types are decoded.

For checkpoints and whole SavedModels:

- what objects hold and which tensors they take is asked of them by the methods that
  ``tf.train.Checkpoint`` calls (`_trackables`);
- variables are assigned through their handles;
- ``tf.saved_model.load`` stops, on the thread of a `Reconstruction` only, before it would
  read values (`_saved_model`), and looks for colocations, devices and gradients of their
  own only where functions have any (`_functions`).
"""

from __future__ import annotations

from ._assign import Recording, Snapshot, recording
from ._build import (
    Skeleton,
    compile_as_saved,
    deserialize,
    own_of_any_package,
    registered,
    safe_mode_here,
)
from ._caller import CapturedScopes
from ._dropped import free_when_dropped
from ._legacy import build_legacy, compile_legacy, parse_legacy
from ._names import Named, is_part_of_a_model, is_stored_by_name, named, reads_vocabularies
from ._rebind import KerasState, detach_derived, drop, exchange, settings
from ._saved_model import NoObjectGraph, Reconstruction
from ._selftest import fast_path, reuse_path, saved_models_work, trackables_work
from ._serving import (
    Draft,
    Library,
    UnknownOperation,
    assign,
    constant,
    decode_structure,
    encode_structure,
    input_name,
    operation,
    variable_handle,
)
from ._serving_selftest import serving_path
from ._state import StateLoader, StateStore, loads_its_own_way
from ._trackables import (
    CannotRestore,
    Restorable,
    TargetGraph,
    Wanted,
    describe,
    global_restorables,
    has_values,
    is_checkpoint,
    is_trackable,
    restorables,
)
from ._variables import as_tensor

__all__ = [
    "CannotRestore",
    "CapturedScopes",
    "Draft",
    "KerasState",
    "Library",
    "Named",
    "NoObjectGraph",
    "Reconstruction",
    "Recording",
    "Restorable",
    "Skeleton",
    "Snapshot",
    "StateLoader",
    "StateStore",
    "TargetGraph",
    "UnknownOperation",
    "Wanted",
    "as_tensor",
    "assign",
    "build_legacy",
    "compile_as_saved",
    "compile_legacy",
    "constant",
    "decode_structure",
    "describe",
    "deserialize",
    "detach_derived",
    "drop",
    "encode_structure",
    "exchange",
    "fast_path",
    "free_when_dropped",
    "global_restorables",
    "has_values",
    "input_name",
    "is_checkpoint",
    "is_part_of_a_model",
    "is_stored_by_name",
    "is_trackable",
    "loads_its_own_way",
    "named",
    "operation",
    "own_of_any_package",
    "parse_legacy",
    "reads_vocabularies",
    "recording",
    "registered",
    "restorables",
    "reuse_path",
    "safe_mode_here",
    "saved_models_work",
    "serving_path",
    "settings",
    "trackables_work",
    "variable_handle",
]
