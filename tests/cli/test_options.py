from __future__ import annotations

from dataclasses import dataclass, field
from typing import Literal

import pytest
import yaml

from bokehdiff.cli.options import HelpRequested, parse_options, to_yaml
from bokehdiff.errors import ConfigError, InputError


@dataclass(frozen=True)
class Light:
    """How much light.

    Args:
        lens_width: Width of the opening [mm].
        flash: Whether it flashes.
    """

    lens_width: float = 1.5
    flash: bool = False


@dataclass(frozen=True)
class Options:
    """Take a photograph.

    Args:
        light: How much light.
        folder_name: Where to [folder].
        K: Blur strength [px].
        mode: How.
        keep: Whether to keep it.
    """

    light: Light = field(default_factory=Light)
    folder_name: str | None = None
    K: float = 20.0
    mode: Literal["slow", "fast"] = "slow"
    keep: bool = True


def parse(*words: str, positional: tuple[str, ...] = ()) -> Options:
    return parse_options(Options, words, program="bokehdiff photograph", positional=positional)


@pytest.mark.parametrize("flag", ["--lens-width", "--lens_width", "--light.lens_width", "--light.lens-width"])
@pytest.mark.parametrize("joined", [True, False])
def test_flags_may_be_spelled_with_dashes_or_underscores(flag, joined):
    words = [f"{flag}=3"] if joined else [flag, "3"]
    assert parse(*words).light == Light(lens_width=3.0)


@pytest.mark.parametrize(
    ("words", "flash", "keep"),
    [
        (["--flash"], True, True),
        (["--flash", "1", "--keep", "0"], True, False),
        (["--no-keep"], False, False),
        (["--flash=false", "--keep=True"], False, True),
        (["--flash", "--K", "4"], True, True),
    ],
)
def test_booleans_need_no_value_and_take_one(words, flash, keep):
    options = parse(*words)
    assert (options.light.flash, options.keep) == (flash, keep)


def test_values_keep_their_types_and_may_be_negative():
    options = parse("--K", "-3", "--folder-name", "007")
    assert options.K == -3.0
    assert options.folder_name == "007"


def test_positional_words_fill_the_named_fields():
    assert parse("here", "--K", "3", positional=("folder_name",)).folder_name == "here"
    with pytest.raises(InputError, match="unexpected word 'there'"):
        parse("here", "there", positional=("folder_name",))


@pytest.mark.parametrize(
    ("words", "flag", "message"),
    [
        (["--lens-with", "3"], "--lens-with", "unknown option; did you mean --lens-width"),
        (["--zzz", "3"], "--zzz", "unknown option; --help lists them"),
        (["--K", "many"], "--K", "Expected a float. Got value: many"),
        (["--mode", "medium"], "--mode", "'slow', 'fast'"),
        (["--K"], "--K", "needs a value"),
        (["--flash=perhaps"], "--flash", "must be true or false; got 'perhaps'"),
        (["--config", "nowhere.yaml"], "--config", "no such file: nowhere.yaml"),
    ],
)
def test_errors_begin_with_the_flag_at_fault(words, flag, message):
    with pytest.raises(InputError, match=message) as raised:
        parse(*words)
    assert str(raised.value).startswith(f"{flag}: ")
    assert "\n" not in str(raised.value)


def test_config_file_gives_defaults_that_flags_overrule(tmp_path):
    path = tmp_path / "c.yaml"
    path.write_text("light:\n  lens_width: 9\n  flash: true\nK: 4\n")
    options = parse("--config", str(path), "--K", "5")
    assert options == Options(light=Light(lens_width=9.0, flash=True), K=5.0)


def test_flags_overrule_a_config_file_wherever_they_stand(tmp_path):
    path = tmp_path / "options.yaml"
    path.write_text("K: 3\nlight:\n  lens_width: 2\n", encoding="utf-8")
    assert parse("--K", "5", "--lens-width=7", "--config", str(path)) == Options(light=Light(lens_width=7.0), K=5.0)


def test_config_file_with_unknown_keys_names_all_of_them_and_the_nearest(tmp_path):
    path = tmp_path / "c.yaml"
    path.write_text("light:\n  lens_with: 9\nKK: 4\n")
    with pytest.raises(ConfigError, match="light.lens_with, did you mean light.lens_width") as raised:
        parse("--config", str(path))
    assert len(raised.value.problems) == 2


@pytest.mark.parametrize(
    ("text", "message"), [("a: [", "is not YAML"), ("- a", "must hold sections of options; got list")]
)
def test_config_file_that_is_none(tmp_path, text, message):
    path = tmp_path / "c.yaml"
    path.write_text(text)
    with pytest.raises(InputError, match=message):
        parse("--config", str(path))


def test_printed_config_reads_back(tmp_path):
    with pytest.raises(HelpRequested) as request:
        parse("--flash", "--K", "7", "--print-config")
    path = tmp_path / "c.yaml"
    path.write_text(request.value.text)
    assert yaml.safe_load(request.value.text)["light"]["flash"] is True
    assert parse("--config", str(path)) == parse("--flash", "--K", "7")
    assert to_yaml(parse("--config", str(path))) == request.value.text


def test_help_spells_flags_with_dashes_and_hides_sections():
    with pytest.raises(HelpRequested) as request:
        parse("--help", positional=("folder_name",))
    text = request.value.text
    assert "--lens-width" in text
    assert "[FOLDER_NAME] [OPTIONS]" in text
    assert "--lens-width MM             Width of the opening [mm]. (default: 1.5)" in text
    assert "--[no-]keep                 Whether to keep it. (default: on)" in text
    assert "--mode {slow,fast}          How. (default: slow)" in text
    assert "--folder-name TEXT          Where to [folder].\n" in text
    assert "_" not in "".join(word for word in text.split() if word.startswith("--"))
    assert "--light" not in text
    assert "light: How much light:" in text


@dataclass(frozen=True)
class Pair:
    """Two lights.

    Args:
        first: The one.
        second: The other.
    """

    first: Light = field(default_factory=Light)
    second: Light = field(default_factory=Light)


def test_a_name_of_several_sections_is_written_with_its_section():
    words = ["--second.lens-width", "4"]
    assert parse_options(Pair, words, program="pair") == Pair(second=Light(lens_width=4.0))
    with pytest.raises(InputError, match=r"--lens-width: several .*--first\.lens-width or --second\.lens-width"):
        parse_options(Pair, ["--lens-width", "4"], program="pair")
    with pytest.raises(HelpRequested) as asked:
        parse_options(Pair, ["--help"], program="pair")
    assert "--second.lens-width" in asked.value.text
    assert "  --lens-width" not in asked.value.text
