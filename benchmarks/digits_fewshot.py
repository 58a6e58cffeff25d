"""Is pretraining worth it? Five digits a class, with and without it, over five seeds.

Run it with `python -m benchmarks.digits_fewshot`. Each row is a bundled recipe with overrides,
trained once for each seed. The seed draws the fifty training images, the new head and the order;
the test images are the same for all, and no setting was chosen by them.
"""

import dataclasses
import tempfile
from pathlib import Path

from benchmarks import record
from jtl.data.options import load_source
from jtl.experiment import train
from jtl.experiment.assemble import make_evaluator, make_examples, make_model, make_placement
from jtl.experiment.options import Config, read_config

HEAD = ("train.phases=[{freeze: backbone, epochs: 140, schedule: {rate: 1e-2}}]",)
KEPT = (
    "model.head=match",
    "train.loss.label_smoothing=0.2",
    "train.phases=[{freeze: stem..layer2, epochs: 150,"
    " optimizer: {weight_decay: 0.01}, schedule: {rate: 1e-3, warmup: 0.2}}]",
)
ROWS = {
    "fine-tuned": ("digits_fewshot", ()),
    "from scratch": ("digits_fewshot_scratch", ()),
    "head only, pretrained backbone": ("digits_fewshot", HEAD),
    "head only, random backbone": ("digits_fewshot_scratch", HEAD),
    "fine-tuned, the head keeps the rows of the digits": ("digits_fewshot", KEPT),
}


def main() -> None:
    """Trains every row with every seed, prints the table and writes the JSON."""
    arguments = record.parser(__doc__).parse_args()
    seeds = range(1 if arguments.smoke else 5)
    rows = []
    print(f"{'test accuracy on 360 digits':52} mean ± std over {len(seeds)} seeds")
    for name, (recipe, overrides) in ROWS.items():
        configs = [read_config(recipe, (*overrides, f"seed={seed}")) for seed in seeds]
        accuracies = [_accuracy(_short(own) if arguments.smoke else own) for own in configs]
        rows.append(_row(name, recipe, overrides, accuracies))
    rows.append(_row("no training on digits at all", "digits_fewshot", (), [_untrained()]))
    print(record.write(arguments.results, "digits_fewshot", rows))


def _row(
    name: str, recipe: str, overrides: tuple[str, ...], accuracies: list[float]
) -> dict[str, object]:
    figures = record.spread(accuracies)
    print(f"{name:52} {figures['mean']:.3f} ± {figures['std']:.3f}", flush=True)
    return {"name": name, "recipe": recipe, "overrides": list(overrides), "accuracy": figures}


def _short(config: Config) -> Config:
    phases = tuple(dataclasses.replace(phase, epochs=1) for phase in config.train.phases)
    return dataclasses.replace(config, train=dataclasses.replace(config.train, phases=phases))


def _accuracy(config: Config) -> float:
    with tempfile.TemporaryDirectory() as folder:
        run = train(config, workdir=Path(folder) / "run")
    return run.summary["final"]["metrics"]["test"]["accuracy"]


def _untrained() -> float:
    config = read_config("digits_fewshot", KEPT)
    source = load_source(config.data)
    pretrained = make_model(config.model, source.classes, config.seed)
    examples = make_examples(source, config, pretrained.preprocess)
    place = make_placement(config.train)
    evaluator = make_evaluator(config, pretrained.model, pretrained.preprocess, place)
    placed = evaluator.put(pretrained.variables)
    return evaluator.evaluate(placed, examples, "test").metrics["accuracy"]


if __name__ == "__main__":
    main()
