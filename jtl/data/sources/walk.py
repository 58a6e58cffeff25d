"""What lies in a folder of images: one pass over it that opens no file and leaves it by no link."""

import dataclasses
import os
import stat
from collections import Counter, defaultdict
from pathlib import PurePosixPath

from jtl.data.sources.listing import File, kind_of, natural_key
from jtl.data.sources.names import shown

# Read by the decoder; which format a file really has is then found out from its bytes.
SUFFIXES = frozenset(
    (".jpg", ".jpeg", ".jpe", ".jfif", ".png", ".webp", ".bmp", ".dib", ".gif", ".tif", ".tiff")
)
# What systems leave behind in folders of pictures.
_LITTER = frozenset(("__MACOSX", "@eaDir", "$RECYCLE.BIN", "lost+found", "Thumbs.db"))


@dataclasses.dataclass(frozen=True, kw_only=True)
class Found:
    """What lies in a folder, by paths from it.

    Attributes:
        files: the images, in the natural order of their names.
        folders: that were listed, the folder itself as an empty text.
        left_out: of each folder, how many entries of which kind are no images.
        links: that were not followed, by what they do instead.
        problems: what must be mended before the folder can be used.
    """

    files: list[File] = dataclasses.field(default_factory=list)
    folders: list[str] = dataclasses.field(default_factory=list)
    left_out: dict[str, Counter[str]] = dataclasses.field(
        default_factory=lambda: defaultdict(Counter)
    )
    links: dict[str, list[str]] = dataclasses.field(default_factory=lambda: defaultdict(list))
    problems: list[str] = dataclasses.field(default_factory=list)


@dataclasses.dataclass(frozen=True, kw_only=True)
class _Place:
    """A folder to look into.

    Attributes:
        name: its path from the root, as it is reached.
        real: its path without links.
        above: the real paths of the folders that it is reached through.
        linked: whether it is reached through a link.
    """

    name: str
    real: str
    above: tuple[str, ...] = ()
    linked: bool = False


def walk(root: str, follow_links: bool) -> Found:
    """Everything in a folder, at any depth.

    An entry's kind is taken from the folder's own listing; the size of images alone is asked for.

    Args:
        root: the folder, without links in its path.
        follow_links: whether links may lead outside it.
    """
    found, listed_by_link = Found(), set[str]()
    waiting = [_Place(name="", real=root)]
    while waiting:
        place = waiting.pop()
        if place.linked:
            # Else folders that link to each other would be listed in every combination.
            if place.real in listed_by_link:
                found.links["lead where another link has led"].append(place.name)
                continue
            listed_by_link.add(place.real)
        try:
            with os.scandir(place.real) as entries:
                # In order, so that which of two links is followed is no accident.
                every = sorted(entries, key=lambda entry: natural_key(entry.name))
        except OSError as error:
            found.problems.append(
                f"the folder {shown(place.name or root)} cannot be listed: {error.strerror}; "
                "allow reading it or take it out"
            )
            continue
        found.folders.append(place.name)
        below = [_look(entry, place, root, follow_links, found) for entry in every]
        waiting += [folder for folder in reversed(below) if folder]
    found.files.sort(key=lambda file: natural_key(file.name))
    found.folders.sort(key=natural_key)
    return found


def is_inside(path: str, root: str) -> bool:
    """Whether a path without links is a folder or lies in it."""
    return path == root or path.startswith(root.rstrip("/") + "/")


def _look(
    entry: os.DirEntry[str], place: _Place, root: str, follow_links: bool, found: Found
) -> _Place | None:
    """Notes one entry; gives the folder to look into, if it is one."""
    name = f"{place.name}/{entry.name}" if place.name else entry.name
    if entry.name.startswith(".") or entry.name in _LITTER:
        found.left_out[place.name]["hidden"] += 1
    elif entry.is_symlink():
        return _look_through(entry, name, place, root, follow_links, found)
    elif entry.is_dir(follow_symlinks=False):
        above = (*place.above, place.real)
        return _Place(name=name, real=entry.path, above=above, linked=place.linked)
    elif not _is_image(entry.name):
        found.left_out[place.name][_suffix(entry.name)] += 1
    else:
        try:
            _note_image(name, entry.stat(follow_symlinks=False), found)
        except FileNotFoundError:
            found.problems.append(f"{shown(name)} vanished while the folder was listed")
    return None


def _look_through(
    entry: os.DirEntry[str], name: str, place: _Place, root: str, follow_links: bool, found: Found
) -> _Place | None:
    """Notes a link, or gives the folder that it leads to."""
    target = os.path.realpath(entry.path)
    if not follow_links and not is_inside(target, root):
        found.links["lead outside the folder"].append(name)
        return None
    try:
        status = os.stat(target)  # noqa: PTH116, a text as the rest
    except OSError:
        found.links["lead nowhere"].append(name)
        return None
    if stat.S_ISDIR(status.st_mode):
        above = (*place.above, place.real)
        if any(is_inside(real, target) for real in above):
            found.links["lead back to a folder above"].append(name)
            return None
        return _Place(name=name, real=target, above=above, linked=True)
    if _is_image(name):
        _note_image(name, status, found)
    else:
        found.left_out[place.name][_suffix(name)] += 1
    return None


def _note_image(name: str, status: os.stat_result, found: Found) -> None:
    if stat.S_ISREG(status.st_mode):
        found.files.append(File(name=name, size=status.st_size, mtime=status.st_mtime_ns))
    else:
        found.problems.append(
            f"{shown(name)} has an image's name but is {kind_of(status)}; take it out"
        )


def _is_image(name: str) -> bool:
    return _suffix(name) in SUFFIXES


def _suffix(name: str) -> str:
    return PurePosixPath(name).suffix.lower() or "no suffix"
