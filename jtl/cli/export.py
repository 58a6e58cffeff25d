"""`jtl export`: a finished run in a form that others read."""

from pathlib import Path
from typing import Literal


def export(
    workdir: str,
    *,
    format: Literal[
        "stablehlo", "safetensors", "torchvision", "timm", "onnx", "tf"
    ] = "safetensors",
    output: Path | None = None,
) -> None:
    """Write a finished run in a form that others read, checked against the run on its images.

    Example: `jtl export runs/digits --format stablehlo --output digits.stablehlo`.

    Args:
        workdir: the run's folder or address.
        format: stablehlo (plain jax runs it on CPU, CUDA and TPU), onnx and tf (a SavedModel of
            TensorFlow) take uint8 images and give probabilities; safetensors is jtl's own layout
            of weights, torchvision and timm those of these libraries.
        output: the file, beside which labels and a model card are written; by default `model` in
            the run's folder.
    """
    from jtl.experiment import load_run
    from jtl.export.run import default_output, export_run

    run = load_run(workdir)
    paths = export_run(run, format, output or default_output(run.workdir, format))
    for place in run.store(paths):
        print(place)
