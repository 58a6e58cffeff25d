"""A run's weights as safetensors: in jtl's layout, or in that of another library."""

import json
from pathlib import Path

from jtl.config import to_yaml
from jtl.experiment.run import Run
from jtl.training.files import read_json
from jtl.weights.save import SaveLayout, save_weights


def export_safetensors(run: Run, output: Path, layout: SaveLayout = "jtl") -> Path:
    """Writes a run's parameters and statistics.

    The header holds, beside classes and preprocessing: `model`, the recipe as YAML under
    `recipe`, the metrics under `result` and the data's origin and licences under
    `provenance`, the last two as JSON.

    Args:
        run: the run.
        output: a file that does not exist yet.
        layout: `jtl` for `jtl.load_model`; `torchvision` or `timm` for `load_state_dict` there,
            with `strict=True`.

    Returns:
        The file.

    Raises:
        WeightsError: the file exists or cannot be written, or the layout has no place for it.
    """
    metadata = {
        "model": run.config.model.name,
        "recipe": to_yaml(run.config),
        "result": json.dumps(run.record, ensure_ascii=False),
        "provenance": json.dumps(read_json(run.workdir / "data.json"), ensure_ascii=False),
    }
    save_weights(
        output,
        run.model,
        run.variables,
        layout=layout,
        classes=run.classes,
        preprocess=run.preprocess,
        metadata=metadata,
    )
    return output
