"""What is ranked: released weights that are here, names, and the files of a folder."""

import dataclasses
from collections.abc import Sequence
from pathlib import Path

from jtl.errors import WeightsError
from jtl.weights.catalogue import find_architectures, released_weights
from jtl.weights.fetch import find_source
from jtl.weights.inspect import exact_architecture
from jtl.weights.source import open_weights

_SUFFIXES = (
    *(".safetensors", ".pth", ".pt", ".bin", ".ckpt", ".h5", ".hdf5", ".keras", ".onnx"),
    *(".npz", ".msgpack"),
)


@dataclasses.dataclass(frozen=True, kw_only=True)
class Candidate:
    """A network with weights.

    Attributes:
        name: what the table calls it.
        model: the architecture, or why there is none.
        weights: a file, or a name of the catalogue.
    """

    name: str
    model: str
    weights: str


def find_candidates(
    models: Sequence[str] = (), folder: Path | None = None
) -> tuple[list[Candidate], dict[str, str]]:
    """The networks to rank.

    Args:
        models: architectures, whose first released weights are taken, or names of weights.
        folder: whose weight files are taken. Without both, all released weights that are here.

    Returns:
        The candidates, and why others are none, by name.

    Raises:
        WeightsError: a name is not known, or there is nothing to rank.
    """
    skipped: dict[str, str] = {}
    names = [_released(name) for name in models]
    paths: list[str] = []
    if folder is not None:
        if not folder.is_dir():
            raise WeightsError(f"--weights {folder}: there is no such folder.")
        paths = [str(path) for path in sorted(folder.iterdir()) if path.suffix in _SUFFIXES]
    elif not names:
        names = [name for name in released_weights() if find_source(name).path.exists()]
    found = []
    for weights in (*names, *paths):
        try:
            file, _ = open_weights(weights)
            model = exact_architecture(file).architecture
        except WeightsError as error:
            if weights in names:
                raise
            skipped[Path(weights).name] = str(error)
            continue
        title = Path(weights).stem if weights in paths else weights
        found.append(Candidate(name=title, model=model, weights=weights))
    if not found:
        where = "no weights are here" if folder is None else f"{folder} holds no known weights"
        why = "".join(f" {name}: {text}" for name, text in skipped.items())
        raise WeightsError(
            f"{where}; fetch some with jtl weights fetch NAME, or name a folder with "
            f"--weights.{why}"
        )
    return found, skipped


def _released(name: str) -> str:
    """The weights that a name stands for: an architecture's first ones, or itself."""
    if name in released_weights() or "." in name or "/" in name:
        return name
    return find_architectures(name)[0].weights[0].name
