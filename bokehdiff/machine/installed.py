"""Packages by what the installed distribution of bokehdiff declares: there is no list to keep here."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, distribution, version

from packaging.requirements import Requirement

PROJECT = "bokehdiff"
DEVELOPERS = frozenset({"dev", "browser"})  # extras that only who changes the code needs


@dataclass(frozen=True)
class Package:
    """A package that the project declares.

    Args:
        name: Of the distribution.
        version: Installed; None if it is not.
        wanted: Versions that serve, such as ">=2.8".
    """

    name: str
    version: str | None
    wanted: str

    @property
    def serves(self) -> bool:
        """Whether it is there in a version that serves."""
        wanted = Requirement(f"{self.name}{self.wanted}").specifier
        return self.version is not None and wanted.contains(self.version, prereleases=True)


@dataclass(frozen=True)
class Extra:
    """Optional packages under one name.

    Args:
        name: Of the extra.
        packages: What it brings.
        install: The command that installs it.
    """

    name: str
    packages: tuple[Package, ...]
    install: str

    @property
    def lacking(self) -> tuple[Package, ...]:
        """What of it is not there, or too old."""
        return tuple(package for package in self.packages if not package.serves)


def installed_packages() -> tuple[Package, ...]:
    """What the project always needs, with versions; empty if it runs without having been installed."""
    return tuple(_package(wanted) for wanted in _requirements(extra=""))


def installed_extras() -> tuple[Extra, ...]:
    """The project's extras for users; empty if it runs without having been installed."""
    names = [name for name in _extra_names() if name not in DEVELOPERS]
    return tuple(
        Extra(name, tuple(map(_package, _requirements(extra=name))), f"pip install '{PROJECT}[{name}]'")
        for name in names
    )


def _extra_names() -> list[str]:
    try:
        return sorted(distribution(PROJECT).metadata.get_all("Provides-Extra") or [])
    except PackageNotFoundError:
        return []


def _requirements(*, extra: str) -> Iterator[Requirement]:
    """What an extra brings, or the project itself needs for the empty one, on this platform."""
    try:
        declared = [Requirement(line) for line in distribution(PROJECT).requires or []]
    except PackageNotFoundError:
        declared = []
    for wanted in declared:
        always = wanted.marker is None or wanted.marker.evaluate({"extra": ""})
        if (
            always
            if not extra
            else not always and wanted.marker is not None and wanted.marker.evaluate({"extra": extra})
        ):
            yield wanted


def _package(wanted: Requirement) -> Package:
    try:
        found: str | None = version(wanted.name)
    except PackageNotFoundError:
        found = None
    return Package(wanted.name, found, str(wanted.specifier))
