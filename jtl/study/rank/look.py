"""What one network makes of some images: pooled outputs of its stages, and what that costs."""

import dataclasses
import time
from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from jtl.data.options import DataOptions
from jtl.data.pipeline import eval_batches
from jtl.data.reader import Reader
from jtl.data.sources.protocol import Source
from jtl.errors import ConfigError
from jtl.platforms import compiler_options
from jtl.study.rank.candidates import Candidate
from jtl.tree import count
from jtl.weights.load import Pretrained, load_model

_BATCH = 32


class LateError(Exception):
    """A candidate would not end in time.

    Args:
        seconds: that its images would take.
    """

    def __init__(self, seconds: float) -> None:
        super().__init__(seconds)
        self.seconds = seconds


@dataclasses.dataclass(frozen=True, kw_only=True, eq=False)
class Look:
    """Features of some images, and what a network takes.

    Attributes:
        features: float `[examples, width]` of each stage, pooled over places.
        probabilities: float `[examples, source classes]` by the source's own head, or None.
        parameters: how many the network has without its head.
        multiply_adds: of one image, by the compiler's count of operations; None if unknown.
        images_per_second: through network and preparation, here.
        memory: bytes that the program takes with a batch of 32, parameters included.
        seconds: that all of it took.
    """

    features: Mapping[str, np.ndarray]
    probabilities: np.ndarray | None
    parameters: int
    multiply_adds: float | None
    images_per_second: float
    memory: int | None
    seconds: float


def look_at(
    candidate: Candidate,
    source: Source,
    indices: np.ndarray,
    data: DataOptions,
    *,
    until: float | None = None,
) -> Look:
    """Runs a candidate over images, once.

    Args:
        candidate: the network.
        source: of the images.
        indices: int `[examples]`, which of them.
        data: how they are read.
        until: the end of the time that it has, by `time.monotonic`.

    Raises:
        LateError: by the pace of its first batches it would take longer.
    """
    began = time.monotonic()
    pretrained, has_head = _loaded(candidate)
    reader = Reader(
        source=source,
        size=pretrained.preprocess.input_size,
        fit=pretrained.preprocess.resize_and_crop,
        threads=data.decoders,
        max_pixels=data.max_pixels,
    )
    program = _program(pretrained, reader.size)
    variables = jax.device_put(pretrained.variables)
    rows: list[dict[str, np.ndarray]] = []
    start, first = time.monotonic(), 0.0
    for batch in eval_batches(reader, indices, _BATCH, options=data.read):
        rows.append(jax.device_get(program(variables, batch["image"])))
        first = first or time.monotonic() - start
        needed = (time.monotonic() - start) * len(indices) / (len(rows) * _BATCH)
        if until is not None and start + needed > until:
            raise LateError(needed)
    elapsed = time.monotonic() - start
    # In the network's own order: the compiled program sorts its results by name.
    outputs = {
        name: np.concatenate([own[name] for own in rows])[: len(indices)]
        for name in pretrained.model.chain
    }
    logits = outputs.pop("head")
    head = count(pretrained.variables["params"].get("head", {}))
    costs, memory = program.cost_analysis() or {}, program.memory_analysis()
    flops = costs.get("flops")
    return Look(
        features=outputs,
        probabilities=np.asarray(jax.nn.softmax(logits, axis=-1)) if has_head else None,
        parameters=count(pretrained.variables["params"]) - head,
        multiply_adds=None if flops is None else flops / 2 / _BATCH,
        # Readers start with the first batch, which is no part of how fast the others are.
        images_per_second=_BATCH / first
        if len(rows) == 1
        else _BATCH * (len(rows) - 1) / (elapsed - first),
        memory=None
        if memory is None
        else int(memory.argument_size_in_bytes + memory.temp_size_in_bytes),
        seconds=time.monotonic() - began,
    )


def _loaded(candidate: Candidate) -> tuple[Pretrained, bool]:
    try:
        return load_model(candidate.model, candidate.weights), True
    except ConfigError:
        # The file has no head; one is drawn whose logits nobody looks at.
        return load_model(candidate.model, candidate.weights, 2, rng=0), False


def _program(pretrained: Pretrained, size: int) -> Any:
    def stages(variables: Any, images: jax.Array) -> dict[str, jax.Array]:
        prepared = pretrained.preprocess.normalize(images)
        outputs = pretrained.model.apply(variables, prepared, method="activations")
        return {name: _pooled(own) for name, own in outputs.items()}  # type: ignore[union-attr]

    images = jax.ShapeDtypeStruct((_BATCH, size, size, 3), np.uint8)
    program = jax.jit(stages, compiler_options=compiler_options())
    return program.lower(pretrained.variables, images).compile()


def _pooled(output: jax.Array) -> jax.Array:
    wide = output.astype(jnp.promote_types(output.dtype, jnp.float32))
    return wide.mean((1, 2)) if wide.ndim == 4 else wide
