"""Serve signatures of a SavedModel without making the object that was saved.

``tf.saved_model.load`` makes every function of a SavedModel anew, in Python. A signature needs its
own function, those that it calls, and the variables, constants and tables that they are bound to:
the functions are registered with the runtime as they are, and bound to the memory that was read.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import numpy.typing as npt
import tensorflow as tf

from asyncload.errors import AsyncloadError
from asyncload.manifest import Manifest

from . import CannotBuildFast, _private
from ._blueprint import remember
from ._bound import Bound
from ._graph_model import GraphModel
from ._graph_plan import plan_graph
from ._object_graph import GRAPH_DOCUMENT
from ._saved_model import SavedModelParts, choose, meta_graph
from ._serving_functions import register
from ._serving_plan import (
    CheckpointKeys,
    ServingPlan,
    check_present,
    checkpoint_keys,
    plan_serving,
)
from ._signatures_blueprint import SignaturesBlueprint, digest_of
from ._turn import summary, turn
from .caller import Scopes
from .served import Signature, Signatures
from .whole import SAVED_MODEL, WholeBuild

__all__ = ["SignaturesBuild"]

Array = npt.NDArray[Any]
Wanted = tuple[Collection[str] | None, Collection[str] | None]


class SignaturesBuild:
    """Signatures on their way: `read`, `wanted` and `construct`, then `bind`.

    Where they need something that is not known here, the whole object is made in their stead, with
    the same values, and its signatures are served.

    Args:
        uri: for messages.
        signatures: the names of those that are to be served; ``None`` for all.
        tags: of the graph that has them; ``None`` for the only one, or that for serving.
        folder: the SavedModel's, where it is on this machine's disk.
        scopes: those of whoever asked.
        notice: called with the reason why the whole object is made, in any thread.

    Attributes:
        chosen: names of signatures, as given.
        tags: as given.
        folder: the same.
        keys: where the values are, after `wanted`.
    """

    writer = None

    def __init__(
        self,
        *,
        uri: str,
        signatures: Collection[str] | None,
        folder: str | None,
        scopes: Scopes,
        tags: Collection[str] | None = None,
        notice: Callable[[str], None],
    ) -> None:
        self._uri = uri
        self._scopes = scopes
        self.chosen, self.tags = signatures, tags
        self.folder = folder
        self._notice = notice
        self._whole = WholeBuild(uri=uri, folder=folder, scopes=scopes, tags=tags)
        self._makes_whole = False
        self._was_read = False
        self._parts: SavedModelParts | GraphModel
        self._plan: ServingPlan
        self.keys = CheckpointKeys({}, {})
        self._program = self._graph = b""
        self._library: _private.Library | None = None
        self._bound: Bound

    def read(self, documents: Mapping[str, bytes]) -> None:
        """Decide what the signatures need.

        Raises:
            Corrupt: the SavedModel is damaged.
            FormatError: it has no such signature.
            CannotBuildFast: only `load_stock` can load it.
        """
        if self._was_read:  # to be compared with another program
            return
        self._was_read = True
        self._whole.read(documents)
        self._program = digest_of(documents[SAVED_MODEL])
        graph = meta_graph(documents[SAVED_MODEL], self.tags, uri=self._uri)
        if graph.has_objects:
            self._read_objects(graph.fields)
        else:
            self._read_graph(graph.fields)

    def _read_objects(self, graph: Mapping[int, list[memoryview]]) -> None:
        parts = self._parts = SavedModelParts(graph, self._uri)
        names = choose(parts.signatures(), self.chosen, uri=self._uri)
        try:
            self._plan = plan_serving(parts, names)
        except CannotBuildFast as reason:
            self._make_whole(reason)

    def _read_graph(self, graph: Mapping[int, list[memoryview]]) -> None:
        model = self._parts = GraphModel(graph, self._uri)
        names = choose(model.signatures(), self.chosen, uri=self._uri)
        with turn(), _or_else_stock("taking its graph apart"):
            self._plan = plan_graph(model, names)

    def wanted(self, manifest: Manifest) -> Wanted:
        """Return the names of the tensors and of the assets that `bind` needs; ``None`` for all.

        Raises:
            Corrupt: the checkpoint has no value for a variable.
            CannotBuildFast: only `load_stock` can load it.
        """
        if not self._makes_whole:
            try:
                return self._wanted(manifest)
            except CannotBuildFast as reason:
                self._make_whole(reason)
        return self._whole.wanted(manifest)

    def _wanted(self, manifest: Manifest) -> Wanted:
        plan = self._plan
        graph = manifest.documents.get(GRAPH_DOCUMENT, b"")
        self._graph = digest_of(graph)
        if plan.keys is not None:
            check_present(plan.keys, manifest.tensors, uri=self._uri)
            self.keys = plan.keys
        elif isinstance(self._parts, SavedModelParts) and plan.has_state:
            self.keys = checkpoint_keys(self._parts, plan, graph, manifest.tensors)
        assets = () if self.folder is not None else plan.assets.values()
        return self.keys.all(), {f"assets/{name}" for name in assets}

    @property
    def place(self) -> tuple[str, str]:
        """The device, and the prefix of names, that its variables get."""
        return self._scopes.place

    @property
    def plan(self) -> ServingPlan | None:
        """What the signatures need; ``None`` if the whole object is made."""
        return None if self._makes_whole else self._plan

    def _make_whole(self, reason: CannotBuildFast) -> None:
        self._makes_whole = True
        self._notice(f"{reason}; the whole object is made")

    def construct(self) -> None:
        """Register the functions, and make the variables without values.

        Raises:
            Corrupt: a function is missing, or calls itself.
            CannotBuildFast: the runtime refuses one, or lacks an operation.
        """
        if self._makes_whole:
            return  # in `bind`: it may turn out later that it is to be made
        if not _private.serving_path():
            raise CannotBuildFast("the fast path for SavedModels failed its self-test")
        if self._scopes.reason is not None:
            raise CannotBuildFast(self._scopes.reason)
        library = self.register()
        with turn(self._scopes), _or_else_stock("making its variables"):
            self._bound = Bound(
                self._plan, library, self.constants(), folder=self.folder, uri=self._uri
            )

    def register(self) -> _private.Library:
        """Register the functions, unless they are; raises as `construct` does."""
        if self._library is None:
            with turn(self._scopes), _or_else_stock("registering its functions"):
                self._library = register(self._parts, self._plan.concrete)
        return self._library

    def constants(self) -> dict[int, Any]:
        """Return the constants that the functions are bound to, by node."""
        values = self._parts.constants(self._plan.constants.values())
        return {
            number: _private.constant(values[operation])
            for number, operation in self._plan.constants.items()
        }

    def bind(self, arrays: Mapping[str, Array], assets: Mapping[str, bytes]) -> Signatures:
        """Give variables and tables their values, and return the signatures.

        Args:
            arrays: checkpoint key -> array, 64-byte-aligned; variables share their memory until
                they are first written to.
            assets: path below the SavedModel's folder -> bytes.

        Raises:
            MismatchError: a value does not fit its variable; names every one.
            CannotBuildFast: a table or another resource cannot be initialised.
        """
        if self._makes_whole:
            self._whole.construct()
            return self._of_whole(self._whole.bind(arrays, assets))
        with turn(self._scopes), _or_else_stock("binding its values"):
            self._bound.restore(arrays, self.keys, assets)
            made = {name: self._signature(name) for name in self._plan.signatures}
            served = Signatures(made, self._uri)
            remember(served, lambda: self._blueprint(served, assets))
        return served

    def _blueprint(self, served: Signatures, assets: Mapping[str, bytes]) -> SignaturesBlueprint:
        digests = self._program, self._graph
        return SignaturesBlueprint(served, self._bound, self, self._parts, digests, assets)

    def _signature(self, name: str) -> Signature:
        bare = self._plan.signatures[name]
        function = bare.concrete_function_name
        concrete = self._plan.concrete[function]
        _, keywords = _private.decode_structure(concrete.canonicalized_input_signature)
        outputs = _private.decode_structure(concrete.output_signature)
        inputs = {keyword: keywords[keyword] for keyword in bare.argument_keywords}
        run = _Run(self._bound, function, outputs)
        return Signature(name, inputs, outputs, run)

    def load_stock(self, path: str) -> Signatures:
        """Load the signatures as TensorFlow does: for what cannot be served the fast way.

        Args:
            path: of the folder, or of ``saved_model.pb`` in it.

        Raises:
            FormatError: TensorFlow cannot load it either.
        """
        return self._of_whole(self._whole.load_stock(path))

    def _of_whole(self, root: Any) -> Signatures:
        names = choose(root.signatures, self.chosen, uri=self._uri)
        return Signatures({name: _of_root(root, name) for name in names}, self._uri)


@contextmanager
def _or_else_stock(what: str) -> Iterator[None]:
    """Leave to TensorFlow what fails for a reason that is none of ours."""
    try:
        yield
    except (AsyncloadError, CannotBuildFast):
        raise
    except Exception as error:
        raise CannotBuildFast(f"{what} raised {summary(error)}") from error


class _Run:
    """Runs a function on its inputs, and keeps all that it needs alive."""

    def __init__(self, bound: Bound, function: str, outputs: Any) -> None:
        self._library = bound.library
        self._bound = bound
        self._captures = bound.captures(function)
        self._function = function
        self._outputs = outputs
        self._flat_outputs = tf.nest.flatten(outputs, expand_composites=True)

    def __call__(self, inputs: list[Any]) -> Any:
        results = self._results(self._library.call(self._function, [*inputs, *self._captures]))
        if not tf.executing_eagerly():
            for result, spec in zip(results, self._flat_outputs, strict=True):
                if spec is not None:
                    result.set_shape(spec.shape)
        return tf.nest.pack_sequence_as(self._outputs, results, expand_composites=True)

    def _results(self, tensors: list[Any]) -> list[Any]:
        """Put ``None`` where an output is an operation, which has no value."""
        if None not in self._flat_outputs:
            return tensors
        given = iter(tensors)
        return [None if spec is None else next(given) for spec in self._flat_outputs]


def _of_root(root: Any, name: str) -> Signature:
    """Return a signature of a whole object, which keeps the object, and its assets, alive."""
    concrete = root.signatures[name]
    _, inputs = concrete.structured_input_signature

    def run(tensors: list[Any], root: Any = root) -> Any:
        del root
        return concrete(**dict(zip(inputs, tensors, strict=True)))

    outputs = tf.nest.map_structure(
        lambda each: (
            None if each is None else tf.type_spec_from_value(each) if tf.is_tensor(each) else each
        ),
        concrete.structured_outputs,
    )
    return Signature(name, inputs, outputs, run)
