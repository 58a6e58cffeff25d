"""What can be said about data in a config, and how it becomes a source."""

import dataclasses
import os
from pathlib import Path
from typing import Annotated, Literal

from annotated_types import Ge, Interval

from jtl.data.decode import MAX_PIXELS
from jtl.data.glyphs import GlyphOptions
from jtl.data.pipeline import ReadOptions
from jtl.data.sources.bundled import digits, glyphs
from jtl.data.sources.protocol import Source
from jtl.data.splits import SplitOptions
from jtl.errors import DataError
from jtl.tree import nearest

Level = Annotated[int, Interval(ge=0, le=255)]
_BUNDLED = ("digits", "glyphs")
_MOST_THREADS = 16


@dataclasses.dataclass(frozen=True, kw_only=True)
class DataOptions:
    """Where examples come from, how they are dealt out, and how they are read.

    Attributes:
        source: a folder of class folders, a manifest (`.csv`, `.parquet`), arrays (`.npz`), a
            TFDS dataset (`tfds:NAME`, `tfds:NAME/CONFIG:VERSION`), or one that comes along:
            `digits` (scikit-learn's handwritten digits), `glyphs` (rendered from fonts).
        data_dir: where TFDS keeps its datasets; null is its own default.
        group: the column of a manifest whose equal values belong in one split or fold; null is
            `group`, where there is one.
        follow_links: whether symbolic links that lead outside the folder are followed.
        exclude: a `check.json` that `jtl check` wrote; what it marks is left out.
        batch_size: training examples a step, over all devices.
        eval_batch_size: examples a step in evaluation, over all devices.
        split: train, validation and test.
        background: the RGB colour under transparent pixels, in training, evaluation, prediction
            and export; null is that of the weights.
        max_pixels: of an image; more are refused before they are decoded.
        on_error: what becomes of an image that cannot be read: `stop` ends the run and names it,
            `skip` leaves it out and counts it in `summary.json`.
        cache: what is kept of all images, for this run and later ones: `resized` a JPEG and `raw`
            the pixels at the size that evaluation resizes to, of which training then takes the
            same crops; `off` reads the originals. Nothing is kept of images in memory.
        cache_dir: where that is kept; null is `images` in jtl's own cache folder.
        threads: that decode, in each process; null is as many as there are cores.
        read: how batches are read ahead.
        glyphs: what the source `glyphs` renders.
    """

    source: str = "digits"
    data_dir: str | None = None
    group: str | None = None
    follow_links: bool = False
    exclude: str | None = None
    batch_size: Annotated[int, Ge(1)] = 64
    eval_batch_size: Annotated[int, Ge(1)] = 256
    split: SplitOptions = SplitOptions()
    background: tuple[Level, Level, Level] | None = None
    max_pixels: Annotated[int, Ge(1)] = MAX_PIXELS
    on_error: Literal["stop", "skip"] = "stop"
    cache: Literal["off", "resized", "raw"] = "off"
    cache_dir: str | None = None
    threads: Annotated[int, Ge(1)] | None = None
    read: ReadOptions = ReadOptions()
    glyphs: GlyphOptions = GlyphOptions()

    @property
    def decoders(self) -> int:
        """Threads that decode: those asked for, or the cores that this process may use."""
        return self.threads or min(len(os.sched_getaffinity(0)), _MOST_THREADS)


def load_source(options: DataOptions, *, refuse: bool = True) -> Source:
    """The source that the options name, with images as they are.

    Args:
        options: which source.
        refuse: whether a folder that cannot be trained on as it is raises, where it can still be
            looked at; see `load_folder`.

    Raises:
        DataError: there is no such source, with near names; or it cannot be used.
    """
    name = options.source
    if options.group is not None and not name.endswith((".csv", ".parquet")):
        raise DataError(
            f"data.group={options.group!r} names a column of a manifest, but data.source={name!r} "
            "is none; give a .csv or a .parquet file."
        )
    if name == "digits":
        return digits()
    if name == "glyphs":
        return glyphs(options.glyphs)
    if name.startswith("tfds:"):
        from jtl.data.sources.tfds import load_tfds

        data_dir = None if options.data_dir is None else Path(options.data_dir)
        return load_tfds(name.removeprefix("tfds:"), data_dir=data_dir)
    path = Path(name).expanduser()
    if path.is_dir():
        from jtl.data.sources.folders import load_folder

        return load_folder(path, follow_links=options.follow_links, refuse=refuse)
    if path.suffix in (".csv", ".parquet"):
        from jtl.data.sources.manifest import load_manifest

        group = options.group or "group"
        return load_manifest(path, follow_links=options.follow_links, group=group)
    if path.suffix == ".npz":
        from jtl.data.sources.objects import load_npz

        return load_npz(path)
    near = nearest(name, _BUNDLED)
    hint = f" Did you mean {near[0]!r}?" if near else ""
    raise DataError(
        f"data.source: {name!r} is no folder, no .csv, .parquet or .npz file, no dataset of TFDS "
        f"(tfds:NAME), and none of {', '.join(_BUNDLED)}.{hint}"
    )
