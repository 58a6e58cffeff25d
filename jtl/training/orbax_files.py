"""What Orbax writes and reads of a run's checkpoints: trees of arrays, and records beside them."""

from collections.abc import Mapping
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

import jax
import numpy as np

if TYPE_CHECKING:
    import orbax.checkpoint as ocp

_TREE = "state"
_FILE = 32 << 20  # bytes, about; a file that is whole is hashed while the next is written


class OrbaxFiles:
    """Writes and reads folders that hold one tree of arrays and records in JSON.

    Orbax is imported when it is first needed, as it takes a fifth of a second.
    """

    @cached_property
    def _orbax(self) -> "ocp.Checkpointer":
        return _checkpointer()

    def open(self) -> None:
        """Makes ready to write, for a thread that is to import nothing beside others."""
        self._orbax  # noqa: B018  made when it is asked for

    def close(self) -> None:
        """Ends the threads that write and read, if there are any."""
        if "_orbax" in self.__dict__:
            self._orbax.close()

    def write(self, folder: Path, tree: Any, **records: Mapping[str, Any]) -> None:
        """Writes a folder that does not exist yet.

        Args:
            folder: where to.
            tree: of numpy arrays.
            records: of what JSON can hold, by name.
        """
        import orbax.checkpoint as ocp

        named = {name: ocp.args.JsonSave(dict(record)) for name, record in records.items()}
        items = ocp.args.Composite(
            **{_TREE: ocp.args.PyTreeSave(tree, ocdbt_target_data_file_size=_FILE)}, **named
        )
        self._orbax.save(folder, args=items)

    def record(self, folder: Path, name: str) -> dict[str, Any]:
        """The record of this name in a folder."""
        import orbax.checkpoint as ocp

        items = ocp.args.Composite(**{name: ocp.args.JsonRestore()})
        found: dict[str, Any] = self._orbax.restore(folder, args=items)[name]
        return found

    def tree(self, folder: Path, template: Any, *, partial: bool = False) -> Any:
        """The tree in a folder, in the structure of a template and on its devices.

        Args:
            folder: where from.
            template: of arrays or of their shapes, dtypes and devices.
            partial: whether the folder may hold more.
        """
        import orbax.checkpoint as ocp

        template = _on_host(template)
        arguments = ocp.checkpoint_utils.construct_restore_args(template, set_global_shape=False)
        options = {"partial_restore": True} if partial else {}
        restore = ocp.args.PyTreeRestore(template, restore_args=arguments, **options)
        items = ocp.args.Composite(**{_TREE: restore})
        return self._orbax.restore(folder, args=items)[_TREE]


def _checkpointer() -> "ocp.Checkpointer":
    import orbax.checkpoint as ocp

    alone = ocp.options.MultiprocessingOptions()
    if jax.process_count() > 1:
        # This process writes alone; Orbax would wait for all of them.
        own = jax.process_index()
        alone = ocp.options.MultiprocessingOptions(
            primary_host=own, active_processes={own}, barrier_sync_key_prefix="jtl"
        )
    # Floats hardly get smaller: compressing them took half of a save and saved 7 % of its bytes.
    tree = ocp.PyTreeCheckpointHandler(use_compression=False, multiprocessing_options=alone)
    json = ocp.JsonCheckpointHandler(multiprocessing_options=alone)
    known = ocp.handlers.DefaultCheckpointHandlerRegistry()
    known.add(None, ocp.args.PyTreeSave, tree)
    known.add(None, ocp.args.PyTreeRestore, tree)
    known.add(None, ocp.args.JsonSave, json)
    known.add(None, ocp.args.JsonRestore, json)
    options = ocp.CompositeOptions(multiprocessing_options=alone)
    handler = ocp.CompositeCheckpointHandler(handler_registry=known, composite_options=options)
    return ocp.Checkpointer(handler, multiprocessing_options=alone)


def _on_host(tree: Any) -> Any:
    """The tree in numpy where there are several processes, as Orbax refuses one's own arrays."""
    if jax.process_count() == 1:
        return tree

    def own(leaf: Any) -> np.ndarray:
        shape = isinstance(leaf, jax.ShapeDtypeStruct)
        return np.zeros(leaf.shape, leaf.dtype) if shape else np.asarray(leaf)

    return jax.tree.map(own, tree)
