"""What --help says: the docstrings of a command's options, with each flag's unit and default."""

from __future__ import annotations

import dataclasses
import re
import textwrap
import typing
from collections import Counter
from collections.abc import Iterator, Sequence
from typing import Any

from docstring_parser import parse

WIDTH = 100  # columns; fixed, so that the committed texts are the same everywhere
INDENT = 30  # where descriptions begin

COMMON = (
    ("--config FILE", "YAML file with any of these options; flags overrule it."),
    ("--print-config", "Print all options as such a file, and stop."),
    ("--help", "Print this, and stop."),
)


def help_text(options_class: type, *, program: str, positional: Sequence[str] = ()) -> str:
    """The help of one command.

    Args:
        options_class: Dataclass of its options, the docstring's `Args:` their descriptions.
        program: Name in the usage line.
        positional: Fields that may be given without their flag.
    """
    places = "".join(f" [{name.upper()}]" for name in positional)
    described = parse(options_class.__doc__ or "")
    summary = [described.short_description or "", described.long_description or ""]
    lines = [f"usage: {program}{places} [OPTIONS]"]
    for paragraph in "\n\n".join(summary).strip().split("\n\n"):
        lines += ["", *textwrap.wrap(" ".join(paragraph.split()), WIDTH, break_on_hyphens=False)]
    for title, entries in _sections(options_class):
        lines += ["", f"{title}:"]
        for left, description in entries:
            lines += _entry(left, description)
    lines += ["", "always:"]
    for left, description in COMMON:
        lines += _entry(left, description)
    return "\n".join(lines)


def _sections(options_class: type) -> Iterator[tuple[str, list[tuple[str, str]]]]:
    """Title and entries of each group: one per field that is a dataclass, and one of the plain fields."""
    types = typing.get_type_hints(options_class)
    groups = [field for field in dataclasses.fields(options_class) if dataclasses.is_dataclass(types[field.name])]
    plain = [field for field in dataclasses.fields(options_class) if field not in groups]
    if plain:
        yield "options", [_describe(field, options_class, field.name) for field in plain]
    inside = {group.name: typing.cast(type, types[group.name]) for group in groups}
    leaves = Counter(field.name for inner in inside.values() for field in dataclasses.fields(inner))
    for group, inner in inside.items():
        title = (parse(inner.__doc__ or "").short_description or group).rstrip(".")
        names = {leaf: leaf if count == 1 else f"{group}.{leaf}" for leaf, count in leaves.items()}
        yield f"{group}: {title}", [_describe(field, inner, names[field.name]) for field in dataclasses.fields(inner)]


def _describe(field: dataclasses.Field[Any], owner: type, name: str) -> tuple[str, str]:
    """Flag by its name with its metavar, and description with its default."""
    kind = typing.get_type_hints(owner)[field.name]
    texts = {entry.arg_name: entry.description or "" for entry in parse(owner.__doc__ or "").params}
    description = " ".join(texts.get(field.name, "").split())
    flag = name.replace("_", "-")
    left = f"--[no-]{flag}" if kind is bool else f"--{flag} {_metavar(kind, description)}"
    if field.default is dataclasses.MISSING or field.default == "":
        return left, f"{description} Needed."
    if field.default is None or (kind is bool and field.default is False):
        return left, description
    return left, f"{description} (default: {'on' if field.default is True else field.default})"


def _metavar(kind: Any, description: str) -> str:
    """The choices, else a number's unit from the brackets in its description, else the kind of value."""
    kinds = (kind, *typing.get_args(kind))
    choices = [choice for part in kinds for choice in _choices(part)]
    if choices:
        return "{" + ",".join([*choices, "X"] if float in kinds else choices) + "}"
    unit = re.search(r"\[([A-Za-z]\w*)[^\]]*\]", description)
    if unit and (int in kinds or float in kinds):
        return unit.group(1).upper()
    names = {int: "N", float: "X", str: "TEXT"}
    return next((names[part] for part in kinds if part in names), "VALUE")


def _choices(kind: Any) -> list[str]:
    return [str(choice) for choice in typing.get_args(kind)] if typing.get_origin(kind) is typing.Literal else []


def _entry(left: str, description: str) -> list[str]:
    """Flag on the left, description beside it, or below if the flag is long."""
    wrapped = textwrap.wrap(description, WIDTH - INDENT, break_on_hyphens=False) or [""]
    start = f"  {left}"
    if len(start) + 2 > INDENT:
        return [start, *(" " * INDENT + line for line in wrapped)]
    return [start.ljust(INDENT) + wrapped[0], *(" " * INDENT + line for line in wrapped[1:])]
