"""What can be said about data in a config, and how it becomes a source."""

import dataclasses
from typing import Annotated

from annotated_types import Ge

from jtl.data.glyphs import GlyphOptions, GlyphSet, render_glyphs
from jtl.data.sources import BUNDLED, ArraySource, Source, unknown_source
from jtl.data.splits import SplitOptions


@dataclasses.dataclass(frozen=True, kw_only=True)
class DataOptions:
    """Where examples come from, and how they are dealt out.

    Attributes:
        source: `digits` (scikit-learn's handwritten digits) or `glyphs` (rendered from fonts).
        batch_size: training examples a step, over all devices.
        eval_batch_size: examples a step in evaluation, over all devices.
        threads: readers of training batches; results do not depend on them.
        split: train, validation and test.
        glyphs: what the source `glyphs` renders.
    """

    source: str = "digits"
    batch_size: Annotated[int, Ge(1)] = 64
    eval_batch_size: Annotated[int, Ge(1)] = 256
    threads: Annotated[int, Ge(1)] = 1
    split: SplitOptions = SplitOptions()
    glyphs: GlyphOptions = GlyphOptions()


def load_source(options: DataOptions) -> Source:
    """The source that the options name, with images as they are.

    Args:
        options: which source.

    Raises:
        DataError: there is no such source, with near names.
    """
    if options.source == "glyphs":
        glyphs = render_glyphs(options.glyphs)
        return ArraySource(
            images=glyphs.images,
            labels=glyphs.labels,
            classes=glyphs.classes,
            provenance={"fonts by licence": _by_licence(glyphs)},
        )
    if options.source not in BUNDLED:
        raise unknown_source(options.source, [*BUNDLED, "glyphs"])
    return BUNDLED[options.source]()


def _by_licence(glyphs: GlyphSet) -> dict[str, list[str]]:
    """The fonts under each licence, with the first digits of each file's SHA-256."""
    found: dict[str, list[str]] = {}
    for font in glyphs.fonts:
        name = f"{font.family} {font.style} ({font.file}, {font.digest[:12]})"
        found.setdefault(font.license, []).append(name)
    return found
