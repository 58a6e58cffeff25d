"""A finished run in forms that others read; today safetensors."""

import json
from pathlib import Path

from jtl.config import to_yaml
from jtl.experiment.run import Run
from jtl.training.files import read_json
from jtl.weights.save import save_weights


def export_safetensors(run: Run, output: Path) -> Path:
    """Writes a run's parameters and statistics in jtl's own layout.

    The header holds, beside classes and preprocessing: `model`, the recipe as YAML under
    `recipe`, the metrics under `result` and the data's origin and licences under
    `provenance`, the last two as JSON.

    Args:
        run: the run.
        output: a file that does not exist yet.

    Returns:
        The file.

    Raises:
        WeightsError: the file exists or cannot be written.
    """
    metadata = {
        "model": run.config.model.name,
        "recipe": to_yaml(run.config),
        "result": json.dumps(run.summary["best"], ensure_ascii=False),
        "provenance": json.dumps(read_json(run.workdir / "data.json"), ensure_ascii=False),
    }
    save_weights(
        output,
        run.model,
        run.variables,
        layout="jtl",
        classes=run.classes,
        preprocess=run.preprocess,
        metadata=metadata,
    )
    return output
