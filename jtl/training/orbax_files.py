"""What Orbax writes and reads of a run's checkpoints: trees of arrays, and records beside them."""

from collections.abc import Mapping
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

    def __init__(self) -> None:
        self._opened: ocp.Checkpointer | None = None

    def open(self) -> "ocp.Checkpointer":
        """Makes ready; before a thread uses it, which is to import nothing beside others."""
        if self._opened is None:
            self._opened = _checkpointer()
        return self._opened

    def close(self) -> None:
        """Ends the threads that write and read, if there are any."""
        if self._opened is not None:
            self._opened.close()

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
        self.open().save(folder, args=items)

    def record(self, folder: Path, name: str) -> dict[str, Any]:
        """The record of this name in a folder."""
        import orbax.checkpoint as ocp

        items = ocp.args.Composite(**{name: ocp.args.JsonRestore()})
        found: dict[str, Any] = self.open().restore(folder, args=items)[name]
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
        return self.open().restore(folder, args=items)[_TREE]


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
