"""A run's folder on object storage: a folder here that is fetched from there and stored there."""

import hashlib
import shutil
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path

from jtl.errors import CheckpointError, JtlError
from jtl.training.file_digests import each
from jtl.training.frozen_store import PREFIX as STORE
from jtl.training.lease import Claim, claimed, is_claim
from jtl.training.manifest import NAME as MANIFEST
from jtl.training.manifest import damage
from jtl.training.storage import ObjectStorage
from jtl.weights.cache import cache_folder, locked

_STEPS = "checkpoints"  # the folder of those that count by their manifests
_ASIDE = "damaged-"  # what names of damaged ones begin with
_FIRST = "config.yaml"  # what makes a folder a run
_LAST = "summary.json"  # what makes it complete
_KEPT_HERE = ("activations",)  # what serves this machine alone


class Mirror:
    """The folder of a run that is kept at an address, and what is stored there of it.

    A step counts there once its manifest has arrived, which is sent last; it is removed by its
    manifest first.

    Args:
        storage: at the address.
        claim: to be its only writer.
        folder: here, which this process has for itself.
    """

    def __init__(self, storage: ObjectStorage, claim: Claim, folder: Path) -> None:
        self.address, self.folder = storage.address, folder
        self._storage, self._claim = storage, claim
        self._stored: dict[str, bytes | None] = {}  # each one's manifest; None of what is no good
        self._sent: dict[str, tuple[int, int] | None] = {}

    def fetch(self) -> None:
        """Fills the folder with all that is stored, damaged or not, and removes what is half there.

        Raises:
            CheckpointError: the storage does not answer, or the disk here is full.
        """
        sizes = self._storage.sizes()
        _fetch_records(self._storage, self.folder, sizes)
        self._sent = {name: self._seen(name) for name in _records(self.folder)}
        for name, names in _grouped(sizes).items():
            place = self.folder / _STEPS / name
            if name.startswith(_ASIDE):
                place.mkdir(parents=True, exist_ok=True)  # its name is taken
                self._stored[name] = b""
            elif f"{_STEPS}/{name}/{MANIFEST}" not in names:
                self._storage.remove(names)
            else:
                whole = _fetch_group(self._storage, self.folder, name, names)
                self._stored[name] = (place / MANIFEST).read_bytes() if whole else None

    def store(self) -> None:
        """Stores what is new in the folder: the records first, then each step, its manifest last.

        Raises:
            CheckpointError: something has not arrived; what counted there before counts still.
        """
        self.store_records()
        places = [place for place in (self.folder / _STEPS).glob("*") if place.is_dir()]
        for place in sorted(places, key=lambda place: (not place.name.startswith(STORE), place)):
            if self._news(place):
                self._store_group(place)

    def prune(self) -> None:
        """Removes what is stored of steps that are in the folder no longer.

        Raises:
            CheckpointError: something cannot be removed; it is tried again at the next time.
        """
        for name in sorted(self._stored):
            if not (self.folder / _STEPS / name).exists():
                self._claim.check()
                self._remove(name)

    def store_records(self) -> None:
        """Stores the records that have changed, each whole; what says that all is there, last.

        Raises:
            CheckpointError: one has not arrived.
        """
        changed = {
            name: seen
            for name in _records(self.folder)
            if self._sent.get(name) != (seen := self._seen(name))
        }
        if not changed:
            return
        self._claim.check()
        for name in (_FIRST, *sorted(changed.keys() - {_FIRST, _LAST}), _LAST):
            if name in changed:
                # Records grow meanwhile, and what others keep beside them may vanish.
                with suppress(FileNotFoundError):
                    self._storage.write(name, (self.folder / name).read_bytes())
                    self._sent[name] = changed[name]

    def said(self, text: str) -> str:
        """A text about the folder here, as one about the address."""
        return text.replace(str(self.folder), self.address)

    def _news(self, place: Path) -> bool:
        if place.name.startswith(_ASIDE):
            return place.name not in self._stored
        with suppress(FileNotFoundError):
            return self._stored.get(place.name) != (place / MANIFEST).read_bytes()
        return False

    def _store_group(self, place: Path) -> None:
        self._claim.check()
        self._remove(place.name)  # of a start that was cut off, or damaged
        self._stored[place.name] = None
        files = [path for path in place.rglob("*") if path.is_file() and path.name != MANIFEST]

        def send(path: Path) -> None:
            self._storage.upload(path, path.relative_to(self.folder).as_posix())

        each(send, files)
        manifest = place / MANIFEST
        if manifest.is_file():
            self._claim.check()
            send(manifest)
        self._stored[place.name] = manifest.read_bytes() if manifest.is_file() else b""

    def _remove(self, name: str) -> None:
        self._stored.pop(name, None)
        try:
            names = self._storage.sizes(f"{_STEPS}/{name}")
            self._storage.remove(sorted(names, key=lambda own: not own.endswith(f"/{MANIFEST}")))
        except CheckpointError:
            self._stored[name] = None
            raise

    def _seen(self, name: str) -> tuple[int, int] | None:
        with suppress(FileNotFoundError):
            status = (self.folder / name).stat()
            return status.st_size, status.st_mtime_ns
        return None


def fetch_copy(address: str, step: int | None = None) -> Path:
    """A folder here with the records of a run at an address, as they are now, to be read.

    Args:
        address: of the run.
        step: fetched as well, with the frozen leaves that it may need.

    Raises:
        CheckpointError: the storage does not answer, or the disk here is full.
    """
    storage = ObjectStorage(address)
    folder = kept_at(storage.address) / "read"
    with locked(folder, _patient):  # readers of one run, one after the other
        _fetch_copy(storage, folder, step)
    return folder


def _patient(owner: str) -> None:
    del owner


def _fetch_copy(storage: ObjectStorage, folder: Path, step: int | None) -> None:
    sizes = storage.sizes()
    if _FIRST not in sizes:  # whatever else it is
        sizes = {}
    for name in _records(folder):
        if name not in sizes:
            (folder / name).unlink()
    _fetch_records(storage, folder, sizes)
    for name, names in _grouped(sizes).items():
        if step is not None and (name == str(step) or name.startswith(STORE)):
            _fetch_group(storage, folder, name, names)


def send(address: str, folder: Path, paths: Iterable[Path]) -> list[str]:
    """Stores files that were made of a run in a copy of it.

    Args:
        address: of the run.
        folder: the copy.
        paths: of files; those that are not in it are passed over.

    Returns:
        Where each of them is then.

    Raises:
        CheckpointError: one has not arrived.
    """
    storage, places = ObjectStorage(address), []
    for path in paths:
        places.append(str(path))
        if path.absolute().is_relative_to(folder):
            name = path.absolute().relative_to(folder).as_posix()
            storage.upload(path, name)
            places[-1] = f"{storage.address}/{name}"
    return places


def kept_at(address: str) -> Path:
    """Where what was fetched from an address is kept, in jtl's cache folder."""
    own = hashlib.sha256(address.encode()).hexdigest()[:16]
    return cache_folder() / "runs" / own


@contextmanager
def mirrored(
    storage: ObjectStorage,
    check: Callable[[], None],
    tell: Callable[[str], None] | None = None,
) -> Iterator[Mirror]:
    """Holds the run at an address for this process, in a new folder that has all of it.

    What was left here by an earlier process is removed, as another machine may have gone on since.

    Args:
        storage: at the address.
        check: raises where the run may not be had; asked before anything is written, and again
            once no other can write.
        tell: hears why it takes time.

    Raises:
        CheckpointError: another process has the run, or the storage does not answer.
    """
    check()
    with claimed(storage, tell) as claim:
        check()
        kept = kept_at(storage.address)
        for earlier in kept.glob("[0-9]*"):
            shutil.rmtree(earlier, ignore_errors=True)
        mirror = Mirror(storage, claim, kept / str(claim.number))
        with spoken_of(mirror.folder, storage.address):
            mirror.fetch()
            try:
                yield mirror
            except BaseException:
                with suppress(CheckpointError, OSError):  # what happened first is what is told
                    mirror.store_records()
                raise
            mirror.store_records()


@contextmanager
def spoken_of(folder: Path, address: str) -> Iterator[None]:
    """Lets errors about a folder here speak of the address."""
    try:
        yield
    except JtlError as error:
        if str(folder) in str(error):
            raise type(error)(str(error).replace(str(folder), address)) from error
        raise


def _records(folder: Path) -> Iterator[str]:
    """The names of all files but those of the steps, and those that serve this machine alone."""
    for path in sorted(folder.rglob("*")):
        name = path.relative_to(folder)
        hidden = any(part.startswith(".") for part in name.parts)
        if path.is_file() and not hidden and name.parts[0] not in (_STEPS, *_KEPT_HERE):
            yield name.as_posix()


def _fetch_records(storage: ObjectStorage, folder: Path, sizes: Mapping[str, int]) -> None:
    """Fetches everything but the steps."""
    folder.mkdir(parents=True, exist_ok=True)
    names = [name for name in sizes if not (name.startswith(f"{_STEPS}/") or is_claim(name))]
    each(lambda name: storage.download(name, folder / name), names)


def _grouped(sizes: Mapping[str, int]) -> dict[str, list[str]]:
    """The names below each of the steps, and below what stands beside them."""
    groups: dict[str, list[str]] = {}
    for name in sizes:
        parts = name.split("/")
        if parts[0] == _STEPS and len(parts) > 2:
            groups.setdefault(parts[1], []).append(name)
    return groups


def _fetch_group(storage: ObjectStorage, folder: Path, group: str, names: list[str]) -> bool:
    """Fetches a step, but for what of it is here already; whether it is whole.

    What arrived damaged is fetched once more, before it counts as damaged where it is stored.
    """
    place = folder / _STEPS / group
    manifest = f"{_STEPS}/{group}/{MANIFEST}"
    if not place.is_dir() or storage.read(manifest) != _content(place / MANIFEST):
        shutil.rmtree(place, ignore_errors=True)
        each(lambda name: storage.download(name, folder / name), names)
    if not damage(place):
        return True
    shutil.rmtree(place, ignore_errors=True)
    each(lambda name: storage.download(name, folder / name), names)
    return not damage(place)


def _content(path: Path) -> bytes | None:
    return path.read_bytes() if path.is_file() else None
