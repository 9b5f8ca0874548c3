"""The house keeps its rules: strata, names, docstrings, configurations, and a package that imports in no time."""

from __future__ import annotations

import dataclasses
import importlib
import inspect
import pkgutil
import re
import shlex
import subprocess
import sys
from pathlib import Path
from types import ModuleType

import pytest
import yaml

import bokehdiff
from bokehdiff.cli.main import COMMANDS
from bokehdiff.cli.options import parse_options
from bokehdiff.training.config import TrainConfig, check_config
from tests.helpers import REPOSITORY

PACKAGE = REPOSITORY / "bokehdiff"
ROOMS = (
    "app",
    "attention",
    "renderers",
    "data",
    "models",
    "preparation",
    "inference",
    "images",
    "optics",
    "tiling",
    "losses",
)
NAMELESS = {"utils", "util", "helpers", "helper", "common", "misc"}
UNITLESS = {"image", "images", "depth", "coc"}  # names that do not say their space or unit
MODULES = sorted(module.name for module in pkgutil.walk_packages([str(PACKAGE)], "bokehdiff."))
GRADIO = {"bokehdiff.app.layout", "bokehdiff.app.page"}  # modules of the extra app; the others load it where used
LAUNCHES = sorted((REPOSITORY / "configs" / "accelerate").glob("*.yaml"))
PRETRAINING = REPOSITORY / "configs" / "pretrain_tiny.yaml"  # of another command, tested with it
BASELINES = (REPOSITORY / "configs" / "baselines").glob("*.yaml")  # likewise
CONFIGS = sorted(set((REPOSITORY / "configs").rglob("*.yaml")) - {*LAUNCHES, PRETRAINING, *BASELINES})


def run(*words: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run([sys.executable, *words], cwd=REPOSITORY, capture_output=True, text=True, check=False)


def module_of(name: str) -> ModuleType:
    """A module of the package; the test is skipped where it stands on an optional package that is not installed."""
    if name in GRADIO:
        pytest.importorskip("gradio")
    return importlib.import_module(name)


def test_imports_go_one_way():
    done = subprocess.run(
        [str(Path(sys.executable).with_name("lint-imports"))],
        cwd=REPOSITORY,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stdout


@pytest.mark.parametrize("statement", ["import bokehdiff", "from bokehdiff.cli.main import main; main(['--help'])"])
def test_the_package_and_its_overview_load_no_torch(statement):
    done = run("-c", f"{statement}\nimport sys; assert 'torch' not in sys.modules and 'numpy' not in sys.modules")
    assert done.returncode == 0, done.stderr


@pytest.mark.parametrize("name", COMMANDS)
def test_help_of_every_command_is_quick_and_loads_no_torch(name):
    words = f"{[*name.split(), '--help']}"
    done = run(
        "-c", f"from bokehdiff.cli.main import main; main({words})\nimport sys; assert 'torch' not in sys.modules"
    )
    assert done.returncode == 0, done.stderr
    assert "[OPTIONS]" in done.stdout


def test_nothing_is_called_utils():
    assert not [path for path in PACKAGE.rglob("*.py") if path.stem in NAMELESS]


@pytest.mark.parametrize("room", ROOMS)
def test_what_is_public_is_documented(room):
    module = importlib.import_module(f"bokehdiff.{room}")
    for name in getattr(module, "__all__", ()):
        thing = getattr(module, name)
        if not (inspect.isclass(thing) or inspect.isfunction(thing)) or issubclass_of_protocol(thing):
            continue
        assert thing.__doc__, f"{room}.{name} has no docstring"
        if inspect.isfunction(thing) and inspect.signature(thing).parameters:
            assert "Args:" in thing.__doc__, f"the docstring of {room}.{name} does not tell its arguments"
        if dataclasses.is_dataclass(thing) and inspect.isclass(thing) and dataclasses.fields(thing):
            assert "Args:" in thing.__doc__, f"the docstring of {room}.{name} does not tell its fields"


def issubclass_of_protocol(thing: object) -> bool:
    return bool(getattr(thing, "_is_protocol", False))


@pytest.mark.parametrize("name", MODULES)
def test_classes_are_abstract_or_final(name):
    """No class of ours inherits from a concrete class of ours; errors and protocols are families by nature."""
    for _, thing in inspect.getmembers(module_of(name), inspect.isclass):
        if thing.__module__ != name or issubclass(thing, Exception):
            continue
        ours = [base for base in thing.__bases__ if base.__module__.startswith("bokehdiff.")]
        concrete = [base for base in ours if not (inspect.isabstract(base) or issubclass_of_protocol(base))]
        assert not concrete, f"{name}.{thing.__name__} inherits from {concrete}"


@pytest.mark.parametrize("name", [name for name in MODULES if not name.endswith("__main__")])
def test_public_parameters_name_their_space_or_unit(name):
    for _, thing in inspect.getmembers(module_of(name), inspect.isfunction):
        if thing.__module__ != name or thing.__name__.startswith("_"):
            continue
        tensors = {
            parameter.name
            for parameter in inspect.signature(thing).parameters.values()
            if "Tensor" in str(parameter.annotation)
        }
        allowed = ALLOWED.get(f"{name}.{thing.__name__}", set())
        assert not tensors & UNITLESS - allowed, (
            f"{name}.{thing.__name__} takes {tensors & UNITLESS}: which space or unit?"
        )


# Any image will do there, or the unit is in the name of the contract that others rely on.
ALLOWED = {
    "bokehdiff.tiling.pad_to_multiple": {"image"},
    "bokehdiff.tiling.map_tiles": {"image"},
    "bokehdiff.tiling.map_windows": {"image"},
    "bokehdiff.images.light.resize": {"image"},
    "bokehdiff.attention.reference.dense_pisa": {"coc"},
    "bokehdiff.attention.visibility.log_soft_disc": {"coc"},
}


@pytest.mark.parametrize("path", CONFIGS, ids=lambda path: path.stem)
def test_every_config_loads_and_its_header_gives_a_command_that_parses(path, tmp_path):
    text = path.read_text(encoding="utf-8")
    config = parse_options(TrainConfig, ["--config", str(path), "--train-data-dir", "DATA"], program="bokehdiff train")
    check_config(config)
    written = yaml.safe_load(text)
    assert set(written) == {field.name for field in dataclasses.fields(TrainConfig)}, "a config holds every section"
    command = re.search(r"^#\s+(?:accelerate launch|python) train_lora_otf\.py (.*)$", text, flags=re.MULTILINE)
    assert command, "the header tells the command that runs it"
    parse_options(TrainConfig, shlex.split(command.group(1)), program="bokehdiff train")


@pytest.mark.parametrize("path", LAUNCHES, ids=lambda path: path.stem)
def test_every_launch_config_is_accelerates_and_its_header_gives_a_command_that_parses(path):
    from accelerate.commands.config.config_args import load_config_from_file
    from accelerate.commands.launch import launch_command_parser

    config = load_config_from_file(str(path))  # refuses unknown keys
    assert config.num_processes > 1
    command = re.search(r"^#\s+accelerate launch (.*)$", path.read_text(encoding="utf-8"), flags=re.MULTILINE)
    assert command, "the header tells the command that uses it"
    asked = launch_command_parser().parse_args(shlex.split(command.group(1).replace(" N ", " 1 ")))
    assert REPOSITORY / asked.config_file == path
    assert asked.training_script == "train_lora_otf.py"
    parse_options(TrainConfig, asked.training_script_args, program="bokehdiff train")


def test_version_is_that_of_the_package():
    assert bokehdiff.__version__ in (REPOSITORY / "pyproject.toml").read_text(encoding="utf-8")
