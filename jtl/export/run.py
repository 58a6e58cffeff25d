"""Exporting a run: written beside, checked against the run on real images, then named."""

import shutil
from pathlib import Path
from typing import Literal, get_args

import numpy as np

from jtl.errors import ConfigError, WeightsError
from jtl.experiment.run import Run
from jtl.export.card import model_card, write_labels
from jtl.export.function import check, probabilities, real_images
from jtl.export.onnx import run_onnx, write_onnx
from jtl.export.savedmodel import run_savedmodel, write_savedmodel
from jtl.export.stablehlo import run_stablehlo, write_stablehlo
from jtl.export.weights import export_safetensors
from jtl.weights.load import load_model
from jtl.weights.save import SaveLayout

Format = Literal["stablehlo", "safetensors", "torchvision", "timm", "onnx", "tf"]
FORMATS: tuple[Format, ...] = get_args(Format)
_LAYOUTS: dict[str, SaveLayout] = {
    "safetensors": "jtl",
    "torchvision": "torchvision",
    "timm": "timm",
}


def default_output(workdir: Path, form: Format) -> Path:
    """Where an export lies that was given no name."""
    stem = "model" if form not in ("torchvision", "timm") else f"model.{form}"
    return workdir / f"{stem}.{'safetensors' if form in _LAYOUTS else form}"


def export_run(run: Run, form: Format, output: Path) -> tuple[Path, ...]:
    """Writes a run in another form, its labels and its model card.

    Args:
        run: a finished run.
        form: one of `FORMATS`.
        output: a file that does not exist yet.

    Returns:
        The export, the labels and the card.

    Raises:
        ConfigError: a file exists, or a library is missing.
        WeightsError: the form has no place for the network, or says something else than the run.
        DataError: the run's data is gone, so that nothing could be checked.
    """
    labels, card = (output.with_name(output.name + end) for end in (".labels.json", ".md"))
    if there := [str(path) for path in (output, labels, card) if path.exists()]:
        raise ConfigError(f"{', '.join(there)} exists; choose another name with --output.")
    if not output.parent.is_dir():
        raise ConfigError(f"there is no folder {output.parent}; make it first.")
    images = real_images(run)
    draft = output.with_name(f".draft-{output.name}")
    try:
        worst, note = _write(run, form, draft, images)
        checked = f"Checked against the run on {len(images)} of its images: probabilities differ "
        said = f"{checked}by at most {worst:.1g}{note}."
        write_labels(run, form, labels)
        card.write_text(model_card(run, form, output, labels, said), encoding="utf-8")
        draft.replace(output)
    except OSError as error:
        raise WeightsError(f"{output} cannot be written: {error.strerror or error}.") from error
    finally:
        if draft.is_dir():
            shutil.rmtree(draft, ignore_errors=True)
        else:
            draft.unlink(missing_ok=True)
    return output, labels, card


def _write(run: Run, form: Format, draft: Path, images: np.ndarray) -> tuple[float, str]:
    """Writes a draft and checks it: the greatest difference, and what else is to be said."""
    if form == "stablehlo":
        write_stablehlo(run, draft)
        return check(run, form, images, run_stablehlo(draft, images)), ""
    if form == "onnx":
        write_onnx(run, draft)
        return check(run, form, images, run_onnx(draft, images)), ", in onnxruntime"
    if form == "tf":
        write_savedmodel(run, draft)
        return check(run, form, images, run_savedmodel(draft, images)), ", in TensorFlow"
    export_safetensors(run, draft, _LAYOUTS[form])
    fields = {"dtype": run.model.dtype} if run.model.dtype is not None else {}
    loaded = load_model(run.config.model.name, str(draft), None, **fields)
    logits = loaded.model.apply(loaded.variables, run.preprocess.normalize(images), train=False)
    return check(run, form, images, probabilities(run, logits)), ", read back by jtl"
