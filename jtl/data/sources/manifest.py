"""Manifests, tables of image files with labels, splits and groups, as a source."""

import os
import stat
from collections import Counter
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from jtl.data.sources.listing import (
    SPLITS,
    File,
    FileSource,
    class_problems,
    first_of,
    kind_of,
    missing_from,
    natural_key,
)
from jtl.data.sources.names import shown
from jtl.data.sources.tables import Cell, Table, read_table
from jtl.data.sources.walk import is_inside
from jtl.errors import DataError


def load_manifest(
    path: Path, *, root: Path | None = None, follow_links: bool = False, group: str = "group"
) -> FileSource:
    """The images that a table lists, in its order.

    Its columns: `path`; `label`, or `labels` for images with several, parted by `|` or `;` (in
    Parquet they may be lists); optionally `split` (`train`, `val` or `test`, or what folders may
    call them) and `group`, equal for examples that belong in one split. A column that stands
    there has a cell in every row; columns with other names are left alone. Classes come in the
    order of their names, with numbers in them by value. No image is opened.

    Args:
        path: a `.csv` in UTF-8 with a header, parted by commas, semicolons or tabs; or a
            `.parquet`.
        root: the folder that paths start from; the manifest's own by default.
        follow_links: whether paths and links may lead outside that folder.
        group: the name of the column that groups.

    Raises:
        DataError: the table cannot be read, lacks a column, has empty cells, unknown splits, paths
            twice, or paths to what is no file or outside the folder; has one class only, or a
            class without training examples; all of these at once.
    """
    path = Path(path)
    where = shown(str(path))
    table = read_table(path, group)
    folder = path.parent if root is None else Path(root)
    files, problems = _find_files(table, folder, follow_links)
    problems = [*table.problems, *_empty_cells(table), *problems]
    splits, unknown = _splits(table)
    problems += unknown
    named = [_labels_of(cell) for cell in table.columns.get("labels", ())]
    named = named or [[str(cell)] if cell else [] for cell in table.columns["label"]]
    members = _members(named, splits)
    present = [split for split in ("train", "val", "test") if split in splits]
    problems += class_problems(members, present, "it")
    if problems:
        raise DataError(f"{where}: {'; '.join(problems)}.")
    labels = _numbered(named, list(members), several="labels" in table.columns)
    groups = table.columns.get("group")
    rows = np.array(splits)
    return FileSource(
        root=Path(os.path.abspath(folder)),  # noqa: PTH100, as the user named it, links and all
        files=tuple(files),
        labels=labels,
        classes=tuple(shown(name) for name in members),
        splits={split: np.flatnonzero(rows == split) for split in present},
        groups=None if groups is None else np.unique(np.array(groups), return_inverse=True)[1],
        provenance={
            "manifest": shown(path.name),
            "images": len(files),
            **({"columns left alone": list(table.ignored)} if table.ignored else {}),
            **(
                {"classes missing from a split": missing}
                if (missing := missing_from(members, present))
                else {}
            ),
        },
    )


def _find_files(table: Table, folder: Path, follow_links: bool) -> tuple[list[File], list[str]]:
    """Each row's file, and what is wrong with some of them."""
    base = os.path.abspath(folder)  # noqa: PTH100, keeps links
    reals = {base: os.path.realpath(base)}
    files: list[File] = []
    wrong: dict[str, list[str]] = {}
    for text in table.columns["path"]:
        try:
            files.append(_find(str(text), base, reals, follow_links))
        except _NoFileError as error:
            if text:
                wrong.setdefault(str(error), []).append(str(text))
    twice = [name for name, count in Counter(file.name for file in files).items() if count > 1]
    if twice:
        wrong["stand in several rows"] = twice
    hints = {"lead outside the folder": " (data.follow_links allows that)"}
    problems = [
        f"paths {how}{hints.get(how, '')}: {first_of(names)}" for how, names in wrong.items()
    ]
    return files, problems


class _NoFileError(Exception):
    """Why a path cannot be used, to follow `paths`."""


def _find(text: str, base: str, reals: dict[str, str], follow_links: bool) -> File:
    """One row's file; `reals` keeps folders' paths without links, which are asked for once."""
    path = os.path.normpath(os.path.join(base, text))  # noqa: PTH118, a text as the rest
    folder, name = os.path.split(path)
    root = reals[base]
    try:
        if folder not in reals:
            reals[folder] = os.path.realpath(folder)
        real = f"{reals[folder]}/{name}"
        if follow_links or is_inside(reals[folder], root):
            real = os.path.realpath(real) if os.path.islink(real) else real  # noqa: PTH114
        if not follow_links and not is_inside(real, root):
            raise _NoFileError("lead outside the folder")
        status = os.stat(real)  # noqa: PTH116
    except FileNotFoundError as error:
        raise _NoFileError("lead to no file") from error
    except (OSError, ValueError) as error:
        reason = getattr(error, "strerror", None) or str(error)
        raise _NoFileError(f"cannot be followed ({reason})") from error
    if not stat.S_ISREG(status.st_mode):
        raise _NoFileError(f"lead to {kind_of(status)}")
    within = [os.path.relpath(path, top) for top in (base, root) if is_inside(path, top)]
    return File(name=within[0] if within else text, size=status.st_size, mtime=status.st_mtime_ns)


def _empty_cells(table: Table) -> list[str]:
    problems = []
    if not table.lines:
        problems.append("it lists no image")
    for name, cells in table.columns.items():
        filled = [_labels_of(cell) if name == "labels" else cell for cell in cells]
        empty = [line for line, cell in zip(table.lines, filled) if not cell]
        if empty:
            problems.append(f"rows have no {name}: lines {first_of(map(str, empty))}")
    return problems


def _splits(table: Table) -> tuple[list[str], list[str]]:
    """Each row's split, and which names of splits are not known."""
    cells = [str(cell) for cell in table.columns.get("split", [""] * len(table.lines))]
    unknown = sorted({cell for cell in cells if cell and cell.lower() not in SPLITS})
    problems = []
    if unknown:
        problems.append(
            f"names of splits are unknown: {first_of(unknown)}; a split is train, val or test"
        )
    return [SPLITS.get(cell.lower(), "") for cell in cells], problems


def _labels_of(cell: Cell) -> list[str]:
    if isinstance(cell, list):
        parts = cell
    else:
        parts = cell.replace(";", "|").split("|")
    return list(dict.fromkeys(part.strip() for part in parts if part.strip()))


def _members(named: Sequence[Sequence[str]], splits: Sequence[str]) -> dict[str, Counter[str]]:
    """Of each class how many examples each split has, in order of the classes' names."""
    classes = sorted({name for names in named for name in names}, key=natural_key)
    members = {name: Counter[str]() for name in classes}
    for names, split in zip(named, splits):
        for name in names:
            members[name][split] += 1
    return members


def _numbered(named: Sequence[Sequence[str]], classes: Sequence[str], several: bool) -> np.ndarray:
    number = {name: place for place, name in enumerate(classes)}
    if not several:
        return np.array([number[names[0]] for names in named], np.int32)
    labels = np.zeros((len(named), len(classes)), np.float32)
    for row, names in zip(labels, named):
        row[[number[name] for name in names]] = 1
    return labels
