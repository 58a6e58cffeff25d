"""The command line: the only place that reads argv; a user's mistake costs a line or two."""

import logging
import sys

from jtl.errors import JtlError, PreemptedError

_SUMMARY = """Fine-tune pretrained image networks in JAX.

Start with `jtl train digits`; every command explains itself with --help."""

# Named by text, so that `jtl --help` imports neither jax nor any room.
_COMMANDS = {
    "jtl.cli.train:train": "Train a bundled recipe or a config file, or go on with a run.",
    "jtl.cli.run:evaluate": "Evaluate a finished run on one split of its data.",
    "jtl.cli.run:predict": "Name the classes of image files.",
    "jtl.cli.report:report": "Write a run's report as one page, or compare several runs.",
    "jtl.cli.export:export": "Write a finished run in a form that others read.",
    "jtl.cli.rank:rank": "Rank pretrained networks on a dataset, without training any.",
    "jtl.cli.tune:tune": "Search for the options that serve best: grid, random, Optuna, Hyperopt.",
    "jtl.cli.crossval:crossval": "Train on all folds but one, for each of them.",
    "jtl.cli.verify:verify_resume": "Kill and resume a short run; say whether every bit agrees.",
    "jtl.cli.check:check": "Find what spoils a dataset, and what training should leave out.",
    "jtl.cli.params:params": "Show what each phase of a config trains, at which rate and cost.",
    "jtl.cli.models:models": "List networks and their released weights.",
    "jtl.cli.config:schema": "Write the JSON Schema of a config, for editors.",
}
_WEIGHT_COMMANDS = {
    "jtl.cli.weights:inspect": "Say what a weight file holds and where each tensor goes.",
    "jtl.cli.weights:convert": "Write weights in another library's layout.",
    "jtl.cli.fetch:fetch": "Download released weights and verify them.",
}
_DATA_COMMANDS = {
    "jtl.cli.data:prepare": "Download a dataset of TFDS and prepare it, once.",
}


def main(arguments: list[str] | None = None) -> None:
    """Runs a command and exits: 0 for success, 2 for a mistake in what was asked, 143 if preempted.

    A run that was preempted has saved where it stands.
    """
    from jtl.cli.memory import keep_memory
    from jtl.training.garbage import rare_collections

    keep_memory()
    from cyclopts import CycloptsError

    tokens = sys.argv[1:] if arguments is None else arguments
    # What the libraries of checkpoints and of object storage warn of on their way is no concern of
    # who trains; where they fail, their errors are ours to tell.
    for library in ("absl", "gcsfs", "google.auth", "s3fs"):
        logging.getLogger(library).setLevel(logging.CRITICAL)
    try:
        with rare_collections():  # a seventh of a start would be spent on looking for garbage
            _application()(tokens, exit_on_error=False, print_error=False)
    except CycloptsError as error:
        _fail(f"{error} (see {_help_command(tokens)})")
    except PreemptedError as error:
        print(f"jtl: {error}", file=sys.stderr)
        sys.exit(143)
    except JtlError as error:
        _fail(str(error))
    except KeyboardInterrupt:
        print("jtl: interrupted.", file=sys.stderr)
        sys.exit(130)
    except BrokenPipeError:
        # The reader of a pipe has gone; Python would complain once more while it shuts down.
        sys.stdout = None  # type: ignore[assignment]
        sys.exit(141)


def _application():  # type: ignore[no-untyped-def]
    from cyclopts import App

    app = App(
        name="jtl",
        help=_SUMMARY,
        version=_version,
        help_format="markdown",
        suppress_keyboard_interrupt=False,
    )
    for place, summary in _COMMANDS.items():
        app.command(place, help=summary)
    weights = App(name="weights", help="Look into, convert and fetch weight files.")
    for place, summary in _WEIGHT_COMMANDS.items():
        weights.command(place, help=summary)
    app.command(weights)
    data = App(name="data", help="Prepare datasets.")
    for place, summary in _DATA_COMMANDS.items():
        data.command(place, help=summary)
    app.command(data)
    return app


def _version() -> str:
    from importlib import metadata

    return metadata.version("jtl")


def _help_command(tokens: list[str]) -> str:
    known = {place.rpartition(":")[2].replace("_", "-") for place in _COMMANDS} | {
        "weights",
        "data",
    }
    words = [token for token in tokens[:1] if token in known]
    return " ".join(["jtl", *words, "--help"])


def _fail(message: str) -> None:
    print(f"jtl: {message}", file=sys.stderr)
    sys.exit(2)
