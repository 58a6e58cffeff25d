"""The model card of an export: data, classes, metrics with intervals, licence and source."""

import json
from pathlib import Path
from typing import Any

from jtl.config import to_yaml
from jtl.experiment.run import Run
from jtl.training.files import read_json
from jtl.weights.catalogue import released_weights

_USE = {
    "stablehlo": """import jax, json
import numpy as np
from jax import export

model = export.deserialize(bytearray(open("{name}", "rb").read()))
labels = json.load(open("{labels}"))["labels"]
images = np.zeros((1, {size}, {size}, 3), np.uint8)  # RGB, any number of them
print(labels[int(model.call(images)[0].argmax())])""",
    "onnx": """import json
import numpy as np
import onnxruntime

model = onnxruntime.InferenceSession("{name}")
labels = json.load(open("{labels}"))["labels"]
images = np.zeros((1, {size}, {size}, 3), np.uint8)  # RGB, any number of them
print(labels[int(model.run(None, {{"images": images}})[0][0].argmax())])""",
    "tf": """import json
import numpy as np
import tensorflow as tf

model = tf.saved_model.load("{name}").signatures["serving_default"]
labels = json.load(open("{labels}"))["labels"]
images = np.zeros((1, {size}, {size}, 3), np.uint8)  # RGB, any number of them
print(labels[int(model(images=tf.constant(images))["probabilities"][0].numpy().argmax())])""",
    "torchvision": """import torchvision
from safetensors.torch import load_file

model = torchvision.models.{model}(num_classes={classes}{more})
model.load_state_dict(load_file("{name}"), strict=True)""",
    "timm": """import timm
from safetensors.torch import load_file

model = timm.create_model("{model}", num_classes={classes})
model.load_state_dict(load_file("{name}"), strict=True)""",
    "safetensors": """import jtl

model = jtl.load_model("{model}", weights="{name}")""",
}
_APPLIED = ("stablehlo", "onnx", "tf")


def model_card(run: Run, form: str, path: Path, labels: Path, note: str) -> str:
    """The text of a card, in Markdown.

    Args:
        run: what was exported.
        form: one of the formats.
        path: the export.
        labels: the file of labels beside it.
        note: how it was checked.
    """
    size, classes = run.preprocess.input_size, len(run.classes)
    model = run.config.model.name
    # What is exported has no auxiliary head, and torchvision makes one unless told not to.
    more = ", aux_logits=False" if model == "inception_v3" else ""
    code = _USE[form].format(
        name=path.name, labels=labels.name, size=size, model=model, classes=classes, more=more
    )
    data = read_json(run.workdir / "data.json")
    provenance = "\n".join(f"- {name}: {value}" for name, value in data["provenance"].items())
    sizes = ", ".join(f"{count:,} {split}" for split, count in run.summary["examples"].items())
    return f"""# {run.config.name}

{model}, fine-tuned by jtl to {classes} classes. Format: {form}. {note}

## Use

```python
{code}
```

Input: {run.preprocess.describe()}.

## Data

{provenance or "- of unknown origin"}
- examples: {sizes}
- fingerprint: {data["fingerprint"]}

## Metrics

{_metrics(run)}

## Calibration

{_calibration(run, form)}

## Pretrained weights

{_weights(run)}

## Classes

{", ".join(run.classes)}

## Training

```yaml
{to_yaml(run.config)}```
"""


def write_labels(run: Run, form: str, path: Path) -> None:
    """The names of the classes, in the order of the outputs, and what comes before and after."""
    record: dict[str, Any] = {
        "labels": list(run.classes),
        "preprocess": run.preprocess.to_dict(),
        "temperature": run.calibration.temperature,
        "temperature_applied": form in _APPLIED,
    }
    if run.calibration.thresholds is not None:
        record["thresholds"] = list(run.calibration.thresholds)
    path.write_text(json.dumps(record, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")


def _metrics(run: Run) -> str:
    best = run.record
    lines = ["| split | metric | value | 95 % interval |", "|---|---|---|---|"]
    for split, own in best["metrics"].items():
        bounds = best.get("intervals", {}).get(split, {})
        for name, value in own.items():
            if not isinstance(value, int | float):
                continue
            said = "–"
            if name in bounds:
                said = f"{bounds[name][0]:.4f} to {bounds[name][1]:.4f}"
            elif name == "accuracy":
                said = "{:.4f} to {:.4f} (Wilson)".format(*_wilson(value, run, split))
            lines.append(f"| {split} | {name} | {value:.4f} | {said} |")
    return "\n".join(lines)


def _calibration(run: Run, form: str) -> str:
    """The temperature, where it is applied, and what it changes."""
    record, own = run.record.get("calibration", {}), run.calibration
    applied = "are divided by it already" if form in _APPLIED else "must be divided by it"
    said = [f"Temperature {own.temperature:.4f}: for probabilities, logits {applied}."]
    if note := record.get("note"):
        said.append(f"It was not fitted freely: {note}.")
    changes = [
        f"{name} {before:.4f} to {record['after'][split][name]:.4f} ({split})"
        for split, values in record.get("before", {}).items()
        for name, before in values.items()
    ]
    if own.temperature != 1 and changes:
        said.append(f"Fitted on validation; it changes {', '.join(changes)}.")
        said.append("The metrics above are without it.")
    if own.thresholds is not None:
        limits = (f"{name} {limit:.4f}" for name, limit in zip(run.classes, own.thresholds))
        said.append(f"A class is predicted from its threshold on: {', '.join(limits)}.")
    return " ".join(said)


def _wilson(share: float, run: Run, split: str) -> tuple[float, float]:
    """The interval of a share of independent examples (Wilson, 1927)."""
    n, z = run.summary["examples"][split], 1.959964
    middle = (share + z * z / (2 * n)) / (1 + z * z / n)
    half = z / (1 + z * z / n) * (share * (1 - share) / n + z * z / (4 * n * n)) ** 0.5
    return max(middle - half, 0.0), min(middle + half, 1.0)


def _weights(run: Run) -> str:
    name = run.config.model.weights
    if name is None:
        return "None: the parameters began at random."
    known = released_weights().get(name)
    if known is None:
        return f"`{Path(name).name}`, a file whose licence jtl does not know."
    source = f", from {known.url}" if known.url else ", which comes with jtl"
    licence = f"Licence: {known.licence} ({known.licence_source})"
    return f"`{name}` by {known.publisher}{source}. {licence}."
