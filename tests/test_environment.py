"""One set of pins, and a library that trains without the workbook's own tools."""

import subprocess
import sys
import tomllib
from itertools import chain
from pathlib import Path

import pytest
import yaml
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

ROOT = Path(__file__).parents[1]
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
EXTRAS = list(chain.from_iterable(PROJECT["optional-dependencies"].values()))


def pins():
    """Name → exact versions in requirements.txt."""
    found = {}
    for line in (ROOT / "requirements.txt").read_text().splitlines():
        if line.strip() and not line.lstrip().startswith("#"):
            pin = Requirement(line)
            found.setdefault(canonicalize_name(pin.name), []).append(pin.specifier)
    return found


def test_every_line_of_the_lock_is_an_exact_pin():
    for name, specifiers in pins().items():
        for specifier in specifiers:
            assert [part.operator for part in specifier] == ["=="], f"{name}{specifier}"


@pytest.mark.parametrize("line", PROJECT["dependencies"] + EXTRAS)
def test_the_lock_satisfies_pyproject(line):
    wanted = Requirement(line)
    for specifier in pins()[canonicalize_name(wanted.name)]:
        (pin,) = specifier
        assert pin.version in wanted.specifier


def test_conda_takes_the_same_pins_and_the_same_python():
    environment = yaml.safe_load((ROOT / "environment.yml").read_text())
    python, pip, from_pip = environment["dependencies"]
    assert python == f"python {PROJECT['requires-python']}"
    assert pip == "pip"
    assert from_pip == {"pip": ["-r requirements.txt", "-e ."]}


def test_lib_imports_where_notebook_batch_and_test_tools_are_missing():
    """Runs are computed on machines that have none of these."""
    script = """
import importlib, pkgutil, sys
sys.modules.update(dict.fromkeys(sys.argv[1:]))  # to None, which makes an import fail
import lib
for module in pkgutil.walk_packages(lib.__path__, "lib."):
    importlib.import_module(module.name)
"""
    missing = [Requirement(line).name.replace("-", "_") for line in EXTRAS]
    done = subprocess.run(
        [sys.executable, "-c", script, *missing], cwd=ROOT, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr
