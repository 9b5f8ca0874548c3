"""From words on a command line to a frozen dataclass: jsonargparse, with the project's spelling of flags.

Each command declares its options as a dataclass. Flags are the leaf names of its fields: `--max-train-steps` sets
`schedule.max_train_steps`; underscores serve as well as dashes, a boolean needs no value (`--edge`, `--no-edge`), and
`--config FILE.yaml` fills in whatever the flags leave open.
"""

from __future__ import annotations

import dataclasses
import difflib
import re
import typing
from argparse import ArgumentError
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from types import MappingProxyType
from typing import Any, TypeVar

import yaml
from jsonargparse import ArgumentParser

from bokehdiff.cli.help import help_text
from bokehdiff.errors import ConfigError, InputError, at_fault

Options = TypeVar("Options")

TRUE_WORDS = frozenset({"1", "true", "yes", "on"})
FALSE_WORDS = frozenset({"0", "false", "no", "off"})
PARSER_FLAGS = ("config", "print_config")


@dataclasses.dataclass(frozen=True)
class Alias:
    """Another spelling of an option, as another program has it.

    Args:
        name: The option it stands for, in the spelling of its field.
        read: From its value to that of the option; raises InputError for what cannot be one.
    """

    name: str
    read: Callable[[str], str] = str


NO_ALIASES: Mapping[str, Alias] = MappingProxyType({})


class HelpRequested(Exception):  # noqa: N818  not a failure: carries the text of --help or --print-config
    """The user asked for a text rather than for a run."""

    def __init__(self, text: str) -> None:
        super().__init__(text)
        self.text = text


def parse_options(
    options_class: type[Options],
    words: Sequence[str],
    *,
    program: str,
    positional: Sequence[str] = (),
    aliases: Mapping[str, Alias] = NO_ALIASES,
) -> Options:
    """Parse a command line into a dataclass of options.

    Args:
        options_class: Frozen dataclass; its docstring's `Args:` are the help. Fields may be dataclasses: the sections
            of a YAML file. A name that several sections have is written with its section, --section.name.
        words: The command line after the command's name. Flags win over files, wherever they stand; the last of two
            wins.
        program: Shown in the usage line.
        positional: Fields that may be given without their flag, in this order.
        aliases: Other spellings, by the flag's name with underscores; one with a single dash has that dash, "-K".

    Raises:
        HelpRequested: For --help and --print-config; holds the text.
        InputError: With the flag at fault.
        ConfigError: With every unknown key of a YAML file.
    """
    fields = dict(_leaf_fields(options_class))
    parser = ArgumentParser(prog=program, exit_on_error=False)
    parser.add_argument("--config", action="config")
    parser.add_class_arguments(options_class)
    if {"-h", "--help"} & set(words):
        raise HelpRequested(help_text(options_class, program=program, positional=positional))
    given = list(_explicit(words, fields, positional, aliases))
    arguments = sorted(given, key=lambda word: not word.startswith("--config="))  # files first: flags win over them
    _check_config_files(arguments, options_class)
    try:
        parsed = parser.parse_args([word for word in arguments if word != "--print_config"])
        options = parser.instantiate(parsed)
    except ArgumentError as error:
        raise _readable(error) from None
    result = options_class(**{field.name: options[field.name] for field in dataclasses.fields(options_class)})  # type: ignore[arg-type]
    if "--print_config" in arguments:
        raise HelpRequested(to_yaml(result))
    return result


def to_yaml(options: Any) -> str:
    """A dataclass of options as the YAML file that --config reads."""
    return yaml.safe_dump(dataclasses.asdict(options), sort_keys=False)


def _leaf_fields(options_class: type, prefix: str = "") -> Iterator[tuple[str, Any]]:
    """Dotted key and type of every option, depth first."""
    types = typing.get_type_hints(options_class)
    for field in dataclasses.fields(options_class):
        kind = types[field.name]
        if dataclasses.is_dataclass(kind):
            yield from _leaf_fields(typing.cast(type, kind), f"{prefix}{field.name}.")
        else:
            yield f"{prefix}{field.name}", kind


def _explicit(
    words: Sequence[str], fields: Mapping[str, Any], positional: Sequence[str], aliases: Mapping[str, Alias]
) -> Iterator[str]:
    """Rewrite a command line as `--dotted_key=value` words, the one spelling the parser is given."""
    rest = list(words)
    places = list(positional)
    while rest:
        word = rest.pop(0)
        if not word.startswith("--") and word.partition("=")[0] not in aliases:
            if not places:
                raise InputError(f"unexpected word {word!r}: options begin with --")
            yield f"--{places.pop(0)}={word}"
            continue
        flag, has_value, value = word.partition("=")
        name = flag[2:].replace("-", "_") if flag.startswith("--") else flag
        if name == "print_config":
            yield "--print_config"
            continue
        alias = aliases.get(name, Alias(name))
        key, negated = _key_of(alias.name, flag, fields)
        if fields.get(key) is bool:
            if not has_value:
                value = rest.pop(0) if rest and rest[0].lower() in TRUE_WORDS | FALSE_WORDS else "true"
            yield f"--{key}={_truth(value, flag) != negated}".lower()
            continue
        if not has_value:
            if not rest or (rest[0].startswith("--") and len(rest[0]) > 2):
                raise InputError("needs a value", flag=flag)
            value = rest.pop(0)
        with at_fault(flag):
            value = alias.read(value)
        yield f"--{key}={value}"


def _key_of(name: str, flag: str, fields: Mapping[str, Any]) -> tuple[str, bool]:
    """The dotted key of a flag, and whether it was asked for as `--no-...`."""
    by_leaf = {key.rpartition(".")[2]: key for key in fields} | {key: key for key in fields}
    meant = [key for key in fields if key.rpartition(".")[2] == name]
    if len(meant) > 1:
        raise InputError(f"several sections have it: write {' or '.join(map(_dotted, meant))}", flag=flag)
    if name in PARSER_FLAGS:
        return name, False
    if name in by_leaf:
        return by_leaf[name], False
    positive = name.removeprefix("no_")
    if positive != name and fields.get(by_leaf.get(positive, "")) is bool:
        return by_leaf[positive], True
    raise InputError(f"unknown option{_nearest(name, by_leaf)}", flag=flag)


def _nearest(name: str, known: Iterable[str]) -> str:
    close = difflib.get_close_matches(name.rpartition(".")[2], [key.rpartition(".")[2] for key in known], n=1)
    return f"; did you mean {_spell(close[0])}?" if close else "; --help lists them"


def _spell(key: str) -> str:
    return "--" + key.rpartition(".")[2].replace("_", "-")


def _dotted(key: str) -> str:
    return "--" + key.replace("_", "-")


def _truth(value: str, flag: str) -> bool:
    if value.lower() in TRUE_WORDS:
        return True
    if value.lower() in FALSE_WORDS:
        return False
    raise InputError(f"must be true or false; got {value!r}", flag=flag)


def _check_config_files(arguments: Sequence[str], options_class: type) -> None:
    for argument in arguments:
        if argument.startswith("--config="):
            path = Path(argument.removeprefix("--config="))
            if not path.is_file():
                raise InputError(f"no such file: {path}", flag="--config")
            try:
                content = yaml.safe_load(path.read_text(encoding="utf-8")) or {}
            except (yaml.YAMLError, UnicodeDecodeError) as error:
                raise InputError(f"{path} is not YAML: {error}", flag="--config") from None
            if not isinstance(content, dict):
                raise InputError(f"{path} must hold sections of options; got {type(content).__name__}", flag="--config")
            problems = list(_unknown_keys(content, options_class, ""))
            if problems:
                raise ConfigError([f"{path}: {problem}" for problem in problems], flag="--config")


def _unknown_keys(content: Mapping[str, Any], options_class: type, prefix: str) -> Iterator[str]:
    types = typing.get_type_hints(options_class)
    for key, value in content.items():
        if key not in types:
            close = difflib.get_close_matches(str(key), types, n=1)
            yield f"unknown key {prefix}{key}" + (f", did you mean {prefix}{close[0]}?" if close else "")
        elif dataclasses.is_dataclass(types[key]) and isinstance(value, dict):
            yield from _unknown_keys(value, typing.cast(type, types[key]), f"{prefix}{key}.")


def _readable(error: ArgumentError) -> InputError:
    """jsonargparse's words as one line of ours, with the flag at fault."""
    text = " ".join(str(error).split())
    found = re.search(r'Parser key "([^"]+)":\s*', text)
    if not found:
        return InputError(text)
    text = re.sub(r"<class '(\w+)'>", r"\1", text[found.end() :]).replace("typing.", "")
    return InputError(text, flag=_spell(found.group(1)))
