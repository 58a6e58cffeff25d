"""`jtl data prepare`: brings a dataset of TFDS to this machine."""

from pathlib import Path

_PREFIX = "tfds:"


def prepare(name: str, *, data_dir: Path | None = None) -> None:
    """Download a dataset of TFDS, prepare it for random access, and print where it lies.

    What is there already is only read once, for its labels. Preparing needs `pip install
    'jtl[tfds]'`; training on what was prepared does not. Example: `jtl data prepare
    tfds:oxford_flowers102`.

    Args:
        name: `tfds:NAME`, `tfds:NAME/CONFIG` or `tfds:NAME/CONFIG:VERSION`.
        data_dir: where TFDS keeps its datasets; by default `$TFDS_DATA_DIR` or
            `~/tensorflow_datasets`.

    Raises:
        DataError: there is no such dataset, or it cannot be prepared.
    """
    from jtl.data.sources.tfds import open_folder
    from jtl.data.sources.tfds_find import parse_name
    from jtl.data.sources.tfds_prepare import prepare as prepare_dataset

    kept = None if data_dir is None else data_dir.expanduser()
    folder = prepare_dataset(parse_name(name.removeprefix(_PREFIX)), kept)
    source = open_folder(folder)
    sizes = ", ".join(f"{len(own)} {split}" for split, own in source.splits.items())
    print(folder)
    print(f"{len(source.classes)} classes; {sizes}")
