"""Files of Hugging Face repositories at a pinned revision, through huggingface_hub."""

import dataclasses
import re
from pathlib import Path

from jtl.errors import WeightsError
from jtl.weights.digest import Digest

_FORM = "hf:owner/name/file@revision"
_PART = r"[A-Za-z0-9._-]+"


@dataclasses.dataclass(frozen=True, kw_only=True)
class HubFile:
    """One file in a repository at one commit.

    Attributes:
        repository: `owner/name`.
        file: its path in the repository.
        revision: the commit, forty hex digits.
    """

    repository: str
    file: str
    revision: str

    @property
    def place(self) -> Path:
        """Where it lies below the cache folder."""
        return Path("hf", self.repository, self.revision, self.file)

    @property
    def url(self) -> str:
        """The web address of this very file, for people."""
        return f"https://huggingface.co/{self.repository}/resolve/{self.revision}/{self.file}"


def parse_hub_file(name: str) -> HubFile:
    """The file that `hf:owner/name/file@revision` names.

    Raises:
        WeightsError: the text has another form, or no commit is pinned: what a branch or a tag
            holds may change under the same name.
    """
    found = re.fullmatch(rf"hf:({_PART}/{_PART})/([^@]+?)(?:@(.*))?", name)
    if not found or ".." in Path(found[2]).parts or not re.fullmatch(r"[\w./ +-]+", found[2]):
        raise WeightsError(f"{name!r} does not have the form {_FORM}.")
    repository, file, revision = found.groups()
    if not re.fullmatch(r"[0-9a-f]{40}", revision or ""):
        said = f"the revision {revision!r} can move" if revision else "no revision is pinned"
        raise WeightsError(
            f"{name}: {said}; end it in @ and the commit's forty hex digits, which "
            f"https://huggingface.co/{repository}/commits shows."
        )
    return HubFile(repository=repository, file=file, revision=revision)


def hub_download(source: HubFile, staging: Path) -> tuple[Path, Digest | None]:
    """Bring the file into a staging folder.

    Args:
        source: what to fetch.
        staging: a folder of its own, in which a broken transfer is resumed.

    Returns:
        Where the file lies, and the SHA-256 that the hub gives for it; None for small files
        that it keeps in git.

    Raises:
        WeightsError: huggingface_hub is not installed, or cannot bring the file.
    """
    try:
        import huggingface_hub as hub
    except ImportError as error:
        raise WeightsError(
            "hf:… files come through huggingface_hub, which is not installed; "
            "run: pip install 'jtl[hub]'"
        ) from error
    try:
        address = hub.hf_hub_url(source.repository, source.file, revision=source.revision)
        metadata = hub.get_hf_file_metadata(address)
        path = hub.hf_hub_download(
            source.repository, source.file, revision=source.revision, local_dir=staging
        )
    except Exception as error:
        # The hub and the HTTP library under it raise dozens of classes, which change by version.
        said = next(iter(str(error).strip().splitlines()), "") or type(error).__name__
        raise WeightsError(
            f"{source.url}: huggingface_hub cannot bring it: {said} Check the repository, the "
            "file and the revision; a private one needs `hf auth login`."
        ) from error
    # Large files are stored under their SHA-256, small ones under git's SHA-1.
    tag = metadata.etag or ""
    whole = re.fullmatch(r"[0-9a-f]{64}", tag)
    return Path(path), Digest(algorithm="sha256", value=tag) if whole else None
