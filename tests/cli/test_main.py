from __future__ import annotations

import pytest

from bokehdiff import __version__
from bokehdiff.cli.main import COMMANDS, main


def test_overview_lists_every_command(capsys):
    assert main(["--help"]) == 0
    printed = capsys.readouterr().out
    assert all(name in printed for name in COMMANDS)
    assert main([]) == 2


def test_version(capsys):
    assert main(["--version"]) == 0
    assert capsys.readouterr().out.strip() == __version__


def test_unknown_command_is_one_line_with_the_known_ones(capsys):
    assert main(["bake"]) == 2
    assert capsys.readouterr().err.startswith("bokehdiff: no command 'bake'; there are: prepare, train")


@pytest.mark.parametrize("name", ["train", "infer", "prepare", "render"])
def test_unknown_flag_is_one_line_beginning_with_it(name, capsys):
    assert main([*name.split(), "--zzz", "3"]) == 1
    assert capsys.readouterr().err == f"bokehdiff {name}: error: --zzz: unknown option; --help lists them\n"


def test_dry_run_prints_the_configuration_and_does_nothing(capsys, tmp_path):
    folder = tmp_path / "run"
    assert main(["train", "--train_data_dir", "DATA", "--output_dir", str(folder), "--dry-run"]) == 0
    assert "max_train_steps: 120000" in capsys.readouterr().out
    assert not folder.exists()


def test_all_problems_of_a_configuration_come_at_once(capsys):
    assert main(["train", "--max-train-steps", "0", "--resolution=-8"]) == 1
    message = capsys.readouterr().err
    assert message.count("\n") == 1
    for part in (
        "--max-train-steps must be above 0; got 0",
        "--resolution must be above 0; got -8",
        "--train-data-dir",
    ):
        assert part in message
