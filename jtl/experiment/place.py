"""Where a run is trained: in its folder, or in one here that is kept at an address."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import jax

from jtl.errors import CheckpointError
from jtl.experiment.workdir import check_names
from jtl.training.mirror import Mirror, fetch_copy, mirrored
from jtl.training.storage import ObjectStorage, is_address


@contextmanager
def placed(
    workdir: str | Path, *, resume: bool, tell: Callable[[str], None]
) -> Iterator[tuple[Path, Mirror | None]]:
    """The folder that a run trains in, and what keeps it at its address; None where it has none.

    Args:
        workdir: a folder, which is left as it is, or an address, which is held by this process.
        resume: whether to go on with the run that is there.
        tell: hears why it takes time.

    Raises:
        CheckpointError: the address may not be had, or does not answer.
    """
    if not is_address(workdir):
        yield Path(workdir), None
        return
    storage = ObjectStorage(workdir)
    if jax.process_count() > 1:
        raise CheckpointError(
            f"{storage.address} keeps runs of one process, and these are {jax.process_count()}: "
            "give a folder with --workdir, or mount the storage (as gcsfuse or mountpoint-s3 do)."
        )

    def check() -> None:
        check_names(storage.address, storage.top(), resume=resume)

    with mirrored(storage, check, tell) as mirror:
        yield mirror.folder, mirror


def readable(workdir: str | Path) -> Path:
    """The folder of a run to be read: that of an address is fetched, without its steps.

    Raises:
        CheckpointError: the storage does not answer.
    """
    return fetch_copy(str(workdir)) if is_address(workdir) else Path(workdir)
