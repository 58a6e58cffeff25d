"""Where a TFDS dataset lies on this machine, and what is wrong with a name that there is not."""

import dataclasses
import re
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from jtl.data.sources.names import shown
from jtl.errors import DataError
from jtl.tree import nearest

_NAME = re.compile(
    r"(?P<dataset>\w+)(/(?P<config>[\w.\-+]+))?(:(?P<version>(\d+|\*)(\.(\d+|\*)){2}))?"
)


@dataclasses.dataclass(frozen=True, kw_only=True)
class Name:
    """A dataset as it is asked for.

    Attributes:
        dataset: its name.
        config: which variant; None is the dataset's default.
        version: which version, `*` for any number; None is the newest one that is there.
    """

    dataset: str
    config: str | None = None
    version: str | None = None

    def __str__(self) -> str:
        config = f"/{self.config}" if self.config else ""
        return f"{self.dataset}{config}{f':{self.version}' if self.version else ''}"


def parse_name(text: str) -> Name:
    """A name such as `cifar10`, `imagenette/160px-v2` or `cifar10:3.0.2`.

    Args:
        text: the name, without `tfds:`.

    Raises:
        DataError: it is none.
    """
    match = _NAME.fullmatch(text)
    if match is None:
        raise DataError(
            f"tfds:{shown(text)} is no name of a TFDS dataset; write tfds:NAME, "
            "tfds:NAME/CONFIG or tfds:NAME/CONFIG:VERSION, such as tfds:imagenette/160px-v2:1.0.0."
        )
    return Name(dataset=match["dataset"], config=match["config"], version=match["version"])


def find_folder(name: Name, data_dir: Path | None) -> Path | None:
    """The folder of a dataset that was prepared before, in whichever format.

    Args:
        name: of the dataset.
        data_dir: where TFDS keeps its datasets; None is where it does by itself.

    Returns:
        The folder, or None where it is not there.

    Raises:
        DataError: several folders of TFDS have it.
    """
    from tensorflow_datasets.core import read_only_builder, registered

    asked = f"{name.dataset}/{name.config}" if name.config else name.dataset
    asked = f"{asked}:{name.version}" if name.version else asked
    kept = None if data_dir is None else str(data_dir)
    try:
        return Path(str(read_only_builder.builder_from_files(asked, data_dir=kept).data_dir))
    except registered.DatasetNotFoundError:
        return None
    except ValueError as error:
        raise DataError(f"tfds:{name}: {error} Set data.data_dir to one of them.") from error


def check_name(name: Name, data_dir: Path | None) -> None:
    """Refuses a dataset that TFDS has not and that is not here; nothing is downloaded.

    Args:
        name: of the dataset.
        data_dir: as `find_folder` takes it.

    Raises:
        DataError: no such dataset, config or version, with near names or all there are.
    """
    import tensorflow_datasets as tfds

    here = data_folder(data_dir)
    known = {*tfds.list_builders(with_community_datasets=False), *_folders(here)}
    if name.dataset not in known:
        near = nearest(name.dataset, known)
        hint = f"did you mean {', '.join(near)}? " if near else ""
        raise DataError(
            f"tfds:{name}: TFDS has no dataset {name.dataset!r} and {shown(str(here))} holds none; "
            f"{hint}To read one of your own, set data.data_dir to where it was prepared."
        )
    try:
        builder = tfds.builder_cls(name.dataset)
    except (tfds.core.registered.DatasetNotFoundError, ImportError):
        _check_part(name, "version", name.version, _folders(here / name.dataset), exact=False)
        raise DataError(
            f"tfds:{name} is not in {shown(str(here / name.dataset))}, which holds "
            f"{', '.join(_folders(here / name.dataset)) or 'nothing'}; name one of these."
        ) from None
    configs = builder.builder_configs
    _check_part(name, "config", name.config, configs)
    _check_part(name, "version", name.version, _versions(builder, name.config), exact=False)


def data_folder(data_dir: Path | None) -> Path:
    """Where TFDS keeps its datasets: the folder given, or what it chooses by itself."""
    from tensorflow_datasets.core import constants

    return (Path(constants.DATA_DIR) if data_dir is None else data_dir).expanduser()


def _check_part(
    name: Name, part: str, asked: str | None, known: Iterable[str], *, exact: bool = True
) -> None:
    every = list(known)
    pattern = re.escape(asked or "").replace(r"\*", r"\d+")
    if asked is None or any(re.fullmatch(pattern, one) for one in every):
        return
    near = nearest(asked, every) if exact else []
    hint = f" Did you mean {near[0]}?" if near else ""
    there = f"it has {', '.join(every)}" if every else f"it has no {part}s"
    raise DataError(f"tfds:{name}: {name.dataset} has no {part} {asked!r}; {there}.{hint}")


def _versions(builder: Any, config: str | None) -> list[str]:
    """Those of a config, or of its dataset where the config says nothing."""
    default = builder.default_builder_config if builder.BUILDER_CONFIGS else None
    own = builder.builder_configs.get(config, default)
    newest = getattr(own, "version", None) or builder.VERSION
    others = getattr(own, "supported_versions", None) or builder.SUPPORTED_VERSIONS
    return [str(version) for version in (newest, *others) if version]


def _folders(folder: Path) -> list[str]:
    try:
        return sorted(each.name for each in folder.iterdir() if each.is_dir())
    except OSError:
        return []
