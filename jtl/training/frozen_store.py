"""Frozen leaves that the steps of a run share: stored once, checked by their digests."""

import hashlib
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from jtl.errors import CheckpointError
from jtl.training.manifest import damage, has_manifest, remove, write_manifest
from jtl.training.orbax_files import OrbaxFiles
from jtl.tree import digest, flatten, unflatten

PREFIX = "frozen-"  # what names of stores begin with, beside the folders of steps

Digests = Mapping[str, str]  # by the slash path of a leaf, such as `params/stem/conv/kernel`


class FrozenStores:
    """The stores in a run's `checkpoints`, each a folder that is written once.

    Args:
        folder: that the steps stand in too.
        files: writes and reads.
        about: what the manifests keep beside the digests of files.
    """

    def __init__(self, folder: Path, files: OrbaxFiles, about: Mapping[str, str]) -> None:
        self._folder, self._files, self._about = folder, files, dict(about)
        self._whole: dict[str, Digests] = {}

    def names(self) -> list[str]:
        """The stores that came to their end, be they damaged since or not."""
        return sorted(path.name for path in self._folder.glob(f"{PREFIX}*") if has_manifest(path))

    def keep(self, leaves: Mapping[str, Any], digests: Digests) -> str:
        """The name of a whole store that holds these leaves; written if there is none.

        Args:
            leaves: numpy arrays by path.
            digests: of the same leaves.
        """
        for name in self.names():
            if not self.flaws(name) and digests.items() <= self._whole[name].items():
                return name
        name = (
            PREFIX + hashlib.sha256(json.dumps(sorted(digests.items())).encode()).hexdigest()[:16]
        )
        self._write(name, leaves, digests)
        return name

    def _write(self, name: str, leaves: Mapping[str, Any], digests: Digests) -> None:
        folder = self._folder / name
        remove(folder)  # of a start that was cut off, or damaged
        try:
            self._files.write(folder, unflatten(dict(leaves)), digests=digests)
            write_manifest(folder, {**self._about, "store": name})
        except Exception:
            remove(folder)
            raise
        self._whole[name] = dict(digests)

    def flaws(self, name: str) -> list[str]:
        """What is wrong with a store; none if it is whole, which is looked at once."""
        folder = self._folder / name
        if name not in self._whole:
            if found := damage(folder) if folder.is_dir() else ["it is missing"]:
                return found
            self._whole[name] = self._files.record(folder, "digests")
        return []

    def forget(self) -> None:
        """Looks anew at what was found whole."""
        self._whole.clear()

    def mend(self, name: str, digests: Digests, variables: Mapping[str, Any]) -> bool:
        """Writes a store anew from variables that hold its leaves bit for bit.

        Args:
            name: of the store, whose folder is not there.
            digests: of the leaves that steps need of it.
            variables: the pretrained ones, `{"params": ..., "batch_stats": ...}`.

        Returns:
            Whether they do; nothing is written if not.
        """
        there = flatten(dict(variables))
        if any(path not in there or digest(there[path]) != own for path, own in digests.items()):
            return False
        self._write(name, {path: np.asarray(there[path]) for path in digests}, digests)
        return True

    def read(self, name: str, digests: Digests, template: Mapping[str, Any]) -> dict[str, Any]:
        """Leaves of a store, by path.

        Args:
            name: of the store.
            digests: that its leaves must have.
            template: shapes, dtypes and devices of those that are asked for, by path.

        Raises:
            CheckpointError: a leaf is not the one that was saved.
        """
        tree = self._files.tree(self._folder / name, unflatten(dict(template)), partial=True)
        leaves = flatten(tree)
        if wrong := [path for path in template if digest(leaves[path]) != digests[path]]:
            raise CheckpointError(
                f"{self._folder / name} holds other values of {', '.join(wrong[:10])} than were "
                "saved: bring the folder back as it was."
            )
        return leaves

    def delete_all_but(self, needed: set[str]) -> None:
        """Deletes the stores that no step needs."""
        for name in self.names():
            if name not in needed:
                self._whole.pop(name, None)
                remove(self._folder / name)
