"""Downloads and prepares a TFDS dataset, once, in a process of its own that may use TensorFlow."""

import argparse
import fcntl
import importlib.util
import subprocess
import sys
from pathlib import Path

from jtl.data.sources.names import shown
from jtl.data.sources.tfds_find import Name, check_name, data_folder, find_folder
from jtl.errors import DataError

_LOCK = ".jtl-prepare.lock"


def prepare(name: Name, data_dir: Path | None) -> Path:
    """The folder of a dataset, which is downloaded and prepared if it is not there.

    It is kept as ArrayRecord. TensorFlow never enters this process; progress goes to standard
    error.

    Args:
        name: of the dataset.
        data_dir: where TFDS keeps its datasets; None is where it does by itself.

    Raises:
        DataError: there is no such dataset; TensorFlow is needed and is not installed; or
            preparing fails.
    """
    folder = find_folder(name, data_dir)
    if folder is not None:
        return folder
    check_name(name, data_dir)
    command = f"jtl data prepare tfds:{name}"
    command += f" --data-dir {data_dir}" if data_dir is not None else ""
    kept = data_folder(data_dir)
    if importlib.util.find_spec("tensorflow") is None:
        raise DataError(
            f"tfds:{name} is not in {shown(str(kept))}, and to download and prepare it takes "
            f"TensorFlow, once: run `pip install 'jtl[tfds]'`, then `{shown(command)}`. Or set "
            "data.data_dir to where it lies."
        )
    module = [sys.executable, "-m", "jtl.data.sources.tfds_prepare"]
    # Whatever it prints is progress: standard output belongs to who called.
    ended = subprocess.run([*module, str(name), str(kept)], stdout=sys.stderr, check=False)
    folder = find_folder(name, data_dir)
    if ended.returncode or folder is None:
        raise DataError(
            f"tfds:{name} could not be prepared in {shown(str(kept))} (see above); once that is "
            f"mended, run `{shown(command)}`."
        )
    return folder


def _prepare_here(name: str, data_dir: Path) -> None:
    import tensorflow_datasets as tfds

    data_dir.mkdir(parents=True, exist_ok=True)
    with (data_dir / _LOCK).open("w") as lock:
        # One process at a time; who had to wait finds the dataset prepared.
        fcntl.flock(lock, fcntl.LOCK_EX)
        builder = tfds.builder(name, data_dir=str(data_dir), file_format="array_record")
        builder.download_and_prepare(file_format="array_record")


def _main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("name")
    parser.add_argument("data_dir", type=Path)
    arguments = parser.parse_args()
    try:
        _prepare_here(arguments.name, arguments.data_dir)
    except Exception as error:  # whatever a dataset's own code or a download raises
        print(f"{type(error).__name__}: {error}", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(_main())
