"""Load a SavedModel as ``tf.saved_model.load`` does, with the variables' values from elsewhere.

TensorFlow makes the objects and functions while the values are still being read; then the
values are put in as those of a checkpoint are (`trackables`), and tables and other resources
initialised, in TensorFlow's order.
"""

from __future__ import annotations

import os
import shutil
import tempfile
import weakref
from collections.abc import Collection, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy.typing as npt
import tensorflow as tf

from asyncload.errors import AsyncloadError, FormatError, MismatchError
from asyncload.formats import PROGRAMS
from asyncload.manifest import Manifest

from . import CannotBuildFast, _private
from ._asset_files import write_asset
from ._object_graph import GRAPH_DOCUMENT, Node, parse_object_graph
from ._saved_model import meta_graph
from ._turn import summary, turn
from .caller import Scopes
from .trackables import describe_missing, execute, match_objects, misfits

__all__ = ["SAVED_MODEL", "WholeBuild"]

Array = npt.NDArray[Any]

SAVED_MODEL = "saved_model.pb"
_ASSETS = "assets"


class WholeBuild:
    """One SavedModel: `read`, `wanted` and `construct`, then `bind`.

    Args:
        uri: for messages.
        folder: where it lies on this machine; ``None`` if it does not. Then its files are
            written to a temporary folder, which stays, if there are assets, for as long as the
            loaded object lives: functions may read them, and saving it again copies them.
        scopes: those of whoever asked.
        tags: of its graph; ``None`` for the only one, or that for serving.
    """

    writer = None

    def __init__(
        self, *, uri: str, folder: str | None, scopes: Scopes, tags: Collection[str] | None = None
    ) -> None:
        self._uri = uri
        self._scopes = scopes
        self._folder = folder
        self._tags: Collection[str] | None = tags
        self._temporary: weakref.finalize[..., Any] | None = None
        self._root = Path()
        self._program = b""
        self._nodes: Sequence[Node] = ()
        self._made: Any = None

    def read(self, documents: Mapping[str, bytes]) -> None:
        """Take in the program.

        Args:
            documents: ``saved_model.pb`` is one of them.

        Raises:
            Corrupt: it is damaged.
            FormatError: it has no graph with these tags.
        """
        self._program = documents[SAVED_MODEL]
        chosen = meta_graph(self._program, self._tags, uri=self._uri).tags
        self._tags = None if chosen is None else sorted(chosen)

    def wanted(self, manifest: Manifest) -> tuple[None, Sequence[str] | None]:
        """Return that all tensors are needed, and all assets that are not on this machine.

        Raises:
            CannotBuildFast: TensorFlow has to load this SavedModel itself.
            Corrupt: the object graph is damaged.
        """
        graph = manifest.documents.get(GRAPH_DOCUMENT)
        if graph is None:
            raise CannotBuildFast("its variables have no object graph")
        self._nodes = parse_object_graph(graph, uri=self._uri)
        return None, () if self._folder is not None else None

    def construct(self) -> None:
        """Make the objects and functions, without values.

        Raises:
            CannotBuildFast: TensorFlow has to load this SavedModel itself.
        """
        if not (_private.trackables_work() and _private.saved_models_work()):
            raise CannotBuildFast("the fast path failed its self-test")
        if self._scopes.reason is not None:
            raise CannotBuildFast(self._scopes.reason)
        folder = self._folder or self._write_program()
        with turn(self._scopes):
            try:
                self._made = _private.Reconstruction(folder, self._tags)
            except _private.NoObjectGraph:
                self._discard()
                raise CannotBuildFast("it was written by TensorFlow 1") from None
            except Exception as error:
                self._discard()
                raise CannotBuildFast(f"building it raised {summary(error)}") from error

    def bind(self, arrays: Mapping[str, Array], assets: Mapping[str, bytes]) -> Any:
        """Give the object its values, and return it.

        Args:
            arrays: checkpoint key -> array, 64-byte-aligned; the object's variables share their
                memory until they are first updated.
            assets: path below the SavedModel's folder -> bytes, where they are not on this
                machine.

        Raises:
            MismatchError: the values do not fit; names every one.
            CannotBuildFast: TensorFlow has to load this SavedModel itself.
        """
        try:
            if self._temporary is not None:
                self._write_assets(assets)
            with turn(self._scopes):
                root = self._bind(arrays)
        except BaseException:
            self._discard()
            raise
        if any(name.startswith(f"{_ASSETS}/") for name in assets):
            self._hand_over(root)
        self._discard()
        return root

    def _bind(self, arrays: Mapping[str, Array]) -> Any:
        made, self._made = self._made, None
        try:
            plan = match_objects(_private.TargetGraph(made.root), self._nodes)
            lines = misfits(plan, arrays) + describe_missing(plan.missing)
            if not lines:
                execute(plan, arrays, uri=self._uri, keep=False)
                made.finish()
        except Exception as error:
            raise CannotBuildFast(f"binding its values raised {summary(error)}") from error
        if lines:
            raise MismatchError(
                "the variables do not fit the SavedModel:" + "".join(f"\n  {x}" for x in lines),
                uri=self._uri,
            )
        return made.root

    def load_stock(self, path: str) -> Any:
        """Load the SavedModel as TensorFlow does: for what cannot be built the fast way.

        Args:
            path: of its folder, or of ``saved_model.pb`` in it. Unless it is the folder given
                at first, it need not stay.

        Raises:
            FormatError: TensorFlow could not load it either.
        """
        for name in PROGRAMS:
            path = path.removesuffix(f"/{name}")
        if self._folder is None and _has_assets(path):
            path = self._link(path)
        try:
            with turn(self._scopes):
                root = tf.saved_model.load(path, self._tags)
        except AsyncloadError:
            raise
        except Exception as error:
            raise FormatError(
                f"TensorFlow {tf.__version__} cannot load this SavedModel: {summary(error)}",
                uri=self._uri,
            ) from error
        self._hand_over(root)
        return root

    # --- files that are not on this machine -------------------------------------------

    def _make_folder(self) -> str:
        folder = tempfile.mkdtemp(prefix="asyncload-saved-model-")
        self._temporary = weakref.finalize(self, shutil.rmtree, folder, ignore_errors=True)
        self._root = Path(folder)
        return folder

    def _write_program(self) -> str:
        folder = self._make_folder()
        self._write_file(SAVED_MODEL, self._program)
        return folder

    def _link(self, path: str) -> str:
        """Return a temporary folder with the files of another one."""
        return shutil.copytree(
            path, self._make_folder(), copy_function=_link_or_copy, dirs_exist_ok=True
        )

    def _write_assets(self, assets: Mapping[str, bytes]) -> None:
        for name, content in assets.items():
            self._write_file(name, content)

    def _write_file(self, name: str, content: bytes) -> None:
        write_asset(self._root, name, content, uri=self._uri)

    def _hand_over(self, root: Any) -> None:
        """Keep the temporary folder for as long as the object lives."""
        if self._temporary is not None and self._temporary.detach():
            shutil.rmtree(self._root / "variables", ignore_errors=True)
            weakref.finalize(root, shutil.rmtree, self._root, ignore_errors=True)

    def _discard(self) -> None:
        if self._temporary is not None:
            self._temporary()


def _has_assets(folder: str) -> bool:
    assets = Path(folder) / _ASSETS
    return assets.is_dir() and any(assets.iterdir())


def _link_or_copy(source: str, target: str) -> None:
    try:
        os.link(source, target)
    except OSError:  # another file system, or one without hard links
        shutil.copyfile(source, target)
