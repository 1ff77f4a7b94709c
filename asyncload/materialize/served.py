"""What a loaded SavedModel is to its users: signatures by name, each a function of tensors.

Importing this imports no TensorFlow; whoever has a `Signature` has imported it.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import tensorflow as tf

from asyncload.forks import Origin
from asyncload.texts import printable

__all__ = ["Signature", "Signatures"]

_DEFAULT = "serving_default"
_OPERATION = "__saved_model_"  # begins the name of one that initialises, and answers nothing


class Signature:
    """One signature of a SavedModel: a function of tensors by name, safe to call from any thread.

    Attributes:
        name: as the SavedModel has it.
        inputs: name -> `tf.TensorSpec` of each argument.
        outputs: name -> `tf.TypeSpec` of each result.
    """

    def __init__(
        self,
        name: str,
        inputs: Mapping[str, tf.TensorSpec],
        outputs: Mapping[str, tf.TypeSpec],
        run: Callable[[list[Any]], Mapping[str, Any]],
    ) -> None:
        self.name = name
        self.inputs = dict(inputs)
        self.outputs = dict(outputs)
        self._run = run
        self._origin = Origin("this signature")

    def __call__(self, *args: Any, **inputs: Any) -> Mapping[str, Any]:
        """Run it.

        Args:
            args: the only input, where there is one.
            inputs: name -> tensor, or what `tf.convert_to_tensor` makes one of.

        Returns:
            Name -> tensor (ragged or sparse, where `outputs` says so).

        Raises:
            TypeError: an input is missing, unknown, or of another dtype.
            ValueError: an input has another shape.
            Forked: it was loaded by the process that this one was forked from.
        """
        self._origin.check()
        given = self._by_name(args, inputs)
        return self._run([self._tensor(name, given[name]) for name in self.inputs])

    def _by_name(self, args: Sequence[Any], inputs: Mapping[str, Any]) -> Mapping[str, Any]:
        if args:
            if len(args) > 1 or len(self.inputs) != 1:
                raise TypeError(
                    f"signature {self.name!r} takes its inputs by name: {self._listing()}"
                )
            only = next(iter(self.inputs))
            if only in inputs:
                raise TypeError(f"signature {self.name!r} got two values for {only!r}")
            inputs = {only: args[0], **inputs}
        if inputs.keys() != self.inputs.keys():
            raise TypeError(
                f"signature {self.name!r} takes {self._listing()}; it got "
                f"{', '.join(sorted(inputs)) or 'nothing'}"
            )
        return inputs

    def _tensor(self, name: str, value: Any) -> Any:
        import tensorflow as tf

        spec = self.inputs[name]
        try:
            tensor = tf.convert_to_tensor(value, dtype=spec.dtype)
        except (TypeError, ValueError) as error:
            raise TypeError(
                f"input {name!r} of signature {self.name!r} has to be {spec.dtype.name}: {error}"
            ) from error
        if not spec.shape.is_compatible_with(tensor.shape):
            raise ValueError(
                f"input {name!r} of signature {self.name!r} has to have the shape {spec.shape}; "
                f"it has {tensor.shape}"
            )
        return tensor

    def _listing(self) -> str:
        return ", ".join(
            f"{name} ({spec.dtype.name} {spec.shape})" for name, spec in self.inputs.items()
        )

    def __repr__(self) -> str:
        outputs = ", ".join(self.outputs)
        return printable(f"<Signature {self.name!r}: {self._listing()} -> {outputs}>")


class Signatures(Mapping[str, Signature]):
    """The signatures of a SavedModel by name; callable itself where there is one to call.

    Its variables share memory with the bytes that were read until they are first written to; all
    of it is given back when neither this nor any `Signature` of it is left.

    Attributes:
        uri: what was loaded, without credentials.
    """

    __slots__ = ("__weakref__", "_signatures", "uri")

    def __init__(self, signatures: Mapping[str, Signature], uri: str) -> None:
        self._signatures = dict(signatures)
        self.uri = uri

    def __getitem__(self, name: str) -> Signature:
        try:
            return self._signatures[name]
        except KeyError:
            known = ", ".join(map(repr, self._signatures))
            raise KeyError(f"{self.uri} has no signature {name!r}; it has {known}") from None

    def __iter__(self) -> Iterator[str]:
        return iter(self._signatures)

    def __len__(self) -> int:
        return len(self._signatures)

    def answering(self) -> Iterator[Signature]:
        """Yield the signatures that are there to be called, and not to initialise the model."""
        return (each for each in self.values() if not each.name.startswith(_OPERATION))

    def __call__(self, *args: Any, **inputs: Any) -> Mapping[str, Any]:
        """Call the only signature, or the one named ``serving_default``; see `Signature`.

        Raises:
            TypeError: there are several, none of that name.
        """
        answering = list(self.answering())
        if len(answering) == 1:
            return answering[0](*args, **inputs)
        if _DEFAULT not in self._signatures:
            raise TypeError(f"{self.uri} has several signatures; call one of {list(self)}")
        return self._signatures[_DEFAULT](*args, **inputs)

    def __repr__(self) -> str:
        return printable(f"<Signatures of {self.uri}: {', '.join(self)}>")
