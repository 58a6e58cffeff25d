"""Folders of class folders as a source, with or without split folders above them."""

import dataclasses
import os
import stat
from collections import Counter
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import numpy as np

from jtl.data.sources.listing import (
    SPLITS,
    FileSource,
    class_problems,
    first_of,
    missing_from,
    natural_key,
)
from jtl.data.sources.names import shown
from jtl.data.sources.walk import SUFFIXES, Found, is_inside, walk
from jtl.errors import DataError

_KINDS_TOLD = 20
_MANIFEST = "a manifest with the columns path and label"


@dataclasses.dataclass(frozen=True, kw_only=True)
class _Layout:
    """Which part of an image's path is its class, and which its split."""

    depth: int  # of class folders: 0, or 1 below split folders
    splits: Mapping[str, str]  # by top folder; empty without split folders


def load_folder(path: Path, *, follow_links: bool = False, refuse: bool = True) -> FileSource:
    """The images of a folder that holds one folder a class, with images at any depth below.

    Above the class folders there may be split folders: `train` (or `training`), `val` (`valid`,
    `validation`) and `test` (`testing`). Examples, and classes, come in the order of their names,
    with numbers in them by value, under every locale. Hidden files, and what is no image by its
    suffix, are passed over; the provenance says how many of which kind. A link is followed if it
    stays within the folder and leads to none above it. No file is opened.

    Args:
        path: the folder; may itself be a link.
        follow_links: whether links may lead outside the folder.
        refuse: whether what stands against training raises; else it is listed in the provenance
            under `problems`, and images without a class are left out.

    Raises:
        DataError: there is no such folder, no image in it, an image beside the class folders, a
            class without images or without training images, one class only, a pipe or a device
            with an image's name, or a folder that may not be listed; all of these at once.
    """
    path = Path(path)
    root, where = _existing(path), shown(str(path))
    found = walk(root, follow_links)
    if not found.files:
        raise _refusal([*found.problems, _nothing(found, where)])
    layout = _layout(found, where)
    members = _members(found, layout)
    splits = [split for split in ("train", "val", "test") if split in layout.splits.values()]
    problems = [*found.problems, *_beside(found, layout, where), *_empty(found, layout, members)]
    problems += class_problems({name: own for name, own in members.items() if own}, splits, where)
    within = [file for file in found.files if file.name.count("/") > layout.depth]
    if problems and (refuse or not within):
        raise _refusal(problems)
    number = {name: place for place, name in enumerate(members)}
    parts = [file.name.split("/", 2) for file in within]
    own = np.array([layout.splits.get(each[0], "") for each in parts])
    return FileSource(
        root=Path(os.path.abspath(path)),  # noqa: PTH100, as the user named it, links and all
        files=tuple(within),
        labels=np.array([number[each[layout.depth]] for each in parts], np.int32),
        classes=tuple(shown(name) for name in members),
        splits={split: np.flatnonzero(own == split) for split in splits},
        provenance=_provenance(root, found, missing_from(members, splits))
        | ({"problems": problems} if problems else {}),
    )


def _existing(path: Path) -> str:
    """The folder's path without links."""
    try:
        status = path.stat()
    except (OSError, ValueError) as error:
        reason = getattr(error, "strerror", None) or str(error)
        raise DataError(f"{shown(str(path))}: there is no such folder ({reason}).") from error
    if not stat.S_ISDIR(status.st_mode):
        raise DataError(
            f"{shown(str(path))} is no folder; give one that holds a folder for each class, or "
            f"{_MANIFEST}, as .csv or .parquet."
        )
    return os.path.realpath(path)


def _refusal(problems: Iterable[str]) -> DataError:
    return DataError("; ".join(problems) + ".")


def _nothing(found: Found, where: str) -> str:
    beside = [_counted(_total(found.left_out.values()))] if found.left_out else []
    beside += [f"{len(names)} × a link that would {how}" for how, names in found.links.items()]
    only = f", only {' and '.join(beside)}" if beside else ""
    hint = "give a folder that holds a folder of images for each class"
    if "lead outside the folder" in found.links:
        hint = "allow following links if what they lead to is meant (data.follow_links)"
    return f"{where} holds no image ({', '.join(sorted(SUFFIXES))}){only}; {hint}"


def _layout(found: Found, where: str) -> _Layout:
    """Split folders, if every top folder with images is called like one.

    Raises:
        DataError: the names can be read in two ways.
    """
    holding = _unique(file.name.split("/", 1)[0] for file in found.files if "/" in file.name)
    direct = {file.name.split("/", 1)[0] for file in found.files if file.name.count("/") == 1}
    splits = {name: SPLITS[name.lower()] for name in holding if name.lower() in SPLITS}
    others = [name for name in holding if name not in splits]
    if others:
        nested = [name for name in splits if name not in direct]
        if nested:
            raise DataError(
                f"{where} holds what look like split folders, {first_of(nested)}, beside folders "
                f"that are not: {first_of(others)}; move one or the other out, or, if all of them "
                "are classes, put the images of the former right into them."
            )
        return _Layout(depth=0, splits={})
    twice = [split for split, count in Counter(splits.values()).items() if count > 1]
    if twice:
        raise DataError(
            f"{where} holds several folders for the split {twice[0]}: "
            f"{first_of(name for name in splits if splits[name] == twice[0])}; keep one of them."
        )
    return _Layout(depth=1 if splits else 0, splits=splits)


def _members(found: Found, layout: _Layout) -> dict[str, Counter[str]]:
    """Of each class how many images each split has, empty files aside; in order of the names."""
    members: dict[str, Counter[str]] = {}
    folders = [folder.split("/") for folder in found.folders if folder]
    for folder in sorted(
        {
            each[layout.depth]
            for each in folders
            if len(each) > layout.depth and (each[0] in layout.splits or not layout.depth)
        },
        key=natural_key,
    ):
        members[folder] = Counter()
    for file in found.files:
        parts = file.name.split("/")
        if file.size and len(parts) > layout.depth + 1:
            members[parts[layout.depth]][layout.splits.get(parts[0], "")] += 1
    return members


def _beside(found: Found, layout: _Layout, where: str) -> list[str]:
    """Images that lie in no class folder."""
    beside = [file.name for file in found.files if file.name.count("/") <= layout.depth]
    if not beside:
        return []
    within = "split folders of " if layout.depth else ""
    if len(beside) == len(found.files):
        return [
            f"all images lie right in the {within}folder {where}, so that nothing says their "
            f"classes; put them into a folder for each class, or write {_MANIFEST}"
        ]
    return [
        f"images lie beside the class folders in the {within}folder {where}: "
        f"{first_of(beside)}; move them into a class folder, or out"
    ]


def _empty(found: Found, layout: _Layout, members: Mapping[str, Counter[str]]) -> list[str]:
    """Split and class folders without images, and what the latter hold instead."""
    tops = [name for name in found.folders if "/" not in name and name.lower() in SPLITS]
    problems = [
        f"the split folder {shown(name)} holds no image; fill it or take it out"
        for name in tops
        if layout.depth and name not in layout.splits
    ]
    for name in (name for name, own in members.items() if not own):
        paths = [f"{top}/{name}" for top in layout.splits] or [name]
        held = [
            kinds
            for folder, kinds in found.left_out.items()
            if any(is_inside(folder, path) for path in paths)
        ]
        blank = sum(any(is_inside(file.name, path) for path in paths) for file in found.files)
        total = _total(held)
        total.update({"of 0 bytes": blank} if blank else {})
        holds = f"only {_counted(total)}" if total else "nothing"
        problems.append(
            f"the class folder {shown(name)} holds no image that can be read, {holds}; fill it or "
            "take it out"
        )
    return problems


def _provenance(root: str, found: Found, missing: Mapping[str, list[str]]) -> dict[str, Any]:
    provenance: dict[str, Any] = {"folder": shown(Path(root).name), "images": len(found.files)}
    if found.left_out:
        provenance["left out"] = dict(_total(found.left_out.values()).most_common(_KINDS_TOLD))
    if found.links:
        provenance["links not followed"] = {
            how: {"count": len(names), "such as": first_of(names)}
            for how, names in found.links.items()
        }
    if missing:
        provenance["classes missing from a split"] = dict(missing)
    return provenance


def _total(counts: Iterable[Counter[str]]) -> Counter[str]:
    total: Counter[str] = Counter()
    for own in counts:
        total.update({shown(kind): count for kind, count in own.items()})
    return total


def _counted(kinds: Counter[str]) -> str:
    ordered = sorted(kinds.items(), key=lambda kind: (-kind[1], kind[0]))
    return ", ".join(f"{count} × {kind}" for kind, count in ordered[:_KINDS_TOLD])


def _unique(names: Iterable[str]) -> list[str]:
    return list(dict.fromkeys(names))
