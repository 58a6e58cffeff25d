import re
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest

import jtl

PROJECT = Path(__file__).parent.parent
METADATA = tomllib.loads((PROJECT / "pyproject.toml").read_text("utf-8"))["project"]


def run_python(code):
    """What a fresh interpreter prints for this code."""
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, cwd=PROJECT, check=False
    )
    assert done.returncode == 0, done.stderr
    return done.stdout.strip()


def test_import_of_the_package_imports_no_array_library():
    heavy = ("jax", "flax", "optax", "numpy", "pydantic", "yaml", "importlib.metadata")
    loaded = run_python(f"import sys, jtl; print([n for n in {heavy} if n in sys.modules])")
    assert loaded == "[]"


def test_listing_the_names_imports_none_of_them():
    listed = run_python("import sys, jtl; print(*dir(jtl)); assert 'jax' not in sys.modules")
    assert {*jtl.__all__, "__version__"} <= set(listed.split())


@pytest.mark.parametrize("name", jtl.__all__)
def test_every_public_name_is_there(name):
    value = getattr(jtl, name)
    assert getattr(value, "__name__", "").split(".")[-1] == name
    assert getattr(jtl, name) is value


def test_the_names_for_type_checkers_are_the_public_names():
    text = (PROJECT / "jtl/__init__.py").read_text("utf-8")
    checked = text.partition("if TYPE_CHECKING:")[2].partition("__version__")[0]
    assert sorted(re.findall(r" as (\w+)$", checked, re.MULTILINE)) == sorted(jtl.__all__)


def test_an_unknown_name_is_an_attribute_error():
    with pytest.raises(AttributeError, match="'jtl' has no attribute 'finetuna'"):
        jtl.finetuna  # noqa: B018


def test_the_version_is_that_of_the_installed_package():
    assert jtl.__version__ in (METADATA["version"], "0+not-installed")


def test_an_uninstalled_checkout_has_a_version_that_says_so():
    hide = "import importlib.metadata as m\ndef f(n): raise m.PackageNotFoundError\nm.version = f\n"
    assert run_python(f"{hide}import jtl; print(jtl.__version__)") == "0+not-installed"


@pytest.mark.parametrize("version", ["3.11", "3.12", "3.13"])
def test_constraints_pin_every_dependency(version):
    text = (PROJECT / f"constraints/{version}.txt").read_text("utf-8")
    pinned = {_plain(name) for name in re.findall(r"^([\w.-]+)==\S+$", text, re.MULTILINE)}
    extras = METADATA["optional-dependencies"]
    wanted = [*METADATA["dependencies"], *extras["test"], *extras["dev"]]
    names = {_plain(re.match(r"[\w.-]+", each)[0]) for each in wanted} - {"jtl"}
    assert names - pinned == set()


def _plain(name):
    return re.sub(r"[-_.]+", "-", name).lower()


def test_the_python_versions_are_those_with_constraints():
    listed = {line.rsplit(" ", 1)[1] for line in METADATA["classifiers"] if "Python ::" in line}
    assert listed == {path.stem for path in (PROJECT / "constraints").iterdir()}
