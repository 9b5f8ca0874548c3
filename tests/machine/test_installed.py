from __future__ import annotations

from importlib.metadata import PackageNotFoundError
from types import SimpleNamespace

import pytest

from bokehdiff.machine import installed, installed_extras, installed_packages

DECLARED = [
    "torch>=2.8",
    "colour[all]>=1; sys_platform == 'nowhere'",
    "old>=3",
    'xformers>=0.0.35; extra == "gpu"',
    'ruff; extra == "dev"',
]


@pytest.fixture
def distributions(monkeypatch):
    """A distribution that declares what stands above, and two packages that are installed."""
    there = {"torch": "2.9.0a1", "old": "2.0"}

    def version(name: str) -> str:
        if name not in there:
            raise PackageNotFoundError(name)
        return there[name]

    metadata = SimpleNamespace(get_all=lambda _: ["gpu", "dev"])
    project = SimpleNamespace(requires=DECLARED, metadata=metadata)
    monkeypatch.setattr(installed, "distribution", lambda _: project)
    monkeypatch.setattr(installed, "version", version)


def test_packages_are_those_declared_for_this_platform(distributions):
    packages = {package.name: package.serves for package in installed_packages()}
    assert packages == {"torch": True, "old": False}


def test_extras_are_those_of_users_with_what_they_lack(distributions):
    (gpu,) = installed_extras()
    assert (gpu.name, gpu.install) == ("gpu", "pip install 'bokehdiff[gpu]'")
    assert [package.name for package in gpu.lacking] == ["xformers"]


def test_without_an_installation_there_is_nothing_to_tell(monkeypatch):
    def missing(name: str) -> None:
        raise PackageNotFoundError(name)

    monkeypatch.setattr(installed, "distribution", missing)
    assert installed_packages() == installed_extras() == ()


def test_here_everything_that_is_needed_serves():
    assert [package.name for package in installed_packages() if not package.serves] == []
