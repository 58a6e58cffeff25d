"""`jtl weights inspect` and `jtl weights convert`: what a weight file is, and the way back."""

from pathlib import Path

from rich.console import Console

from jtl.errors import WeightsError
from jtl.weights.fit import describe
from jtl.weights.inspect import exact_architecture, inspect_weights
from jtl.weights.save import SaveLayout

_PIPED_WIDTH = 240  # columns: wide enough that no row of a file or a pipe is broken


def inspect(weights: str, *, model: str | None = None, json: bool = False) -> None:
    """Say what a weight file is, and where each of its tensors goes.

    Example: `jtl weights inspect resnet50.pth`, or, to see it as a model that you choose,
    `jtl weights inspect resnet50.pth --model resnet50`.

    Args:
        weights: a file of any format, a folder that Orbax wrote, or a name that `jtl models`
            shows.
        model: the network to account for; without it, the one that fits.
        json: print the ledger as JSON instead of a table.

    Raises:
        WeightsError: the file cannot be read, or does not fit the model; with `json`, also where
            no network fits.
    """
    found = inspect_weights(weights, model)
    console = Console(highlight=False, markup=False, soft_wrap=True)
    if not console.is_terminal:
        console.width = _PIPED_WIDTH
    if json:
        if found.ledger is None:
            raise WeightsError(f"{found.path}: {found.verdict}")
        print(found.ledger.to_json(), end="")
        return
    console.print(f"{found.path}: {found.format}, {found.tensors} tensors, ", end="")
    console.print(f"{found.parameters:,} numbers")
    console.print(found.verdict)
    for match in found.matches[1:]:
        console.print(f"  then {describe(match)}")
    for match in found.matches[:1]:
        for title in ("missing", "extra", "mismatched"):
            names = getattr(match, title)
            if names:
                more = f", … {len(names) - 6} more" if len(names) > 6 else ""
                console.print(f"  {title}: {', '.join(names[:6])}{more}")
    if found.ledger is not None:
        for note in found.ledger.notes:
            console.print(f"  {note}")
        console.print(found.ledger.table(), soft_wrap=False)


def convert(
    source: str,
    target: Path,
    *,
    layout: SaveLayout = "jtl",
    model: str | None = None,
    overwrite: bool = False,
) -> None:
    """Write weights of any format as safetensors, in the layout of jtl, torchvision or timm.

    Values and dtypes stay as they are. Example: `jtl weights convert resnet50.h5
    resnet50.safetensors`, or, so that torchvision loads a model that was tuned here,
    `jtl weights convert tuned.safetensors torch.safetensors --layout torchvision`.

    Args:
        source: a file of any format, a folder that Orbax wrote, or a name that `jtl models`
            shows.
        target: the new file; its name ends in `.safetensors`.
        layout: whose names and order of axes the new file has.
        model: the network that the file holds; without it, the one that fits.
        overwrite: replace the target if it exists.

    Raises:
        WeightsError: the source cannot be read, is no network that is known, or has no place in
            the layout; or the target cannot be written.
    """
    import jax

    from jtl.weights.load import load_model
    from jtl.weights.save import save_weights
    from jtl.weights.source import open_weights

    fields = {}
    if model is None:
        match = exact_architecture(open_weights(source)[0])
        model, fields = match.architecture, dict(match.fields)
    # Otherwise jax would narrow the float64 of a file.
    with jax.enable_x64(True):
        loaded = load_model(model, source, head="keep", **fields)
        save_weights(
            target,
            loaded.model,
            loaded.variables,
            layout=layout,
            classes=loaded.classes,
            preprocess=loaded.preprocess,
            overwrite=overwrite,
        )
    print(f"{loaded.ledger.summary()}\n{target}: saved in the {layout} layout")
