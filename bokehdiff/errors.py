"""What can go wrong, as types: each error says what was got, what was expected and what to do, in one line."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager


class BokehDiffError(Exception):
    """Any failure that a user can mend. The command line prints it as one line and exits with status 1.

    Args:
        message: Got, expected, and what to do; no newline.
        flag: The command-line flag at fault, such as "--train-data-dir"; None if unknown here, to be
            filled in by `at_fault` on the way out.
    """

    def __init__(self, message: str, *, flag: str | None = None) -> None:
        super().__init__(message)
        self.message = message
        self.flag = flag

    def __str__(self) -> str:
        return f"{self.flag}: {self.message}" if self.flag else self.message


class InputError(BokehDiffError, ValueError):
    """A value, array or file that cannot be used as it is."""


class MissingWeightsError(BokehDiffError):
    """Pretrained weights are needed and are not there: names the file, where it was looked for, the way out."""


class MissingDependencyError(BokehDiffError, ImportError):
    """An optional package is needed: names the package and the extra that installs it."""


class ConfigError(BokehDiffError, ValueError):
    """Every problem of a configuration at once.

    Args:
        problems: One line per problem, each beginning with the key at fault.
        flag: As in `BokehDiffError`.
    """

    def __init__(self, problems: list[str], *, flag: str | None = None) -> None:
        super().__init__("; ".join(problems), flag=flag)
        self.problems = tuple(problems)


@contextmanager
def at_fault(flag: str) -> Iterator[None]:
    """Within this block, an error that does not know its flag yet is blamed on `flag`."""
    try:
        yield
    except BokehDiffError as error:
        error.flag = error.flag or flag
        raise


def first_line(error: BaseException) -> str:
    """What an error of another library says in its first line, or its type where it says nothing."""
    lines = str(error).strip().splitlines()
    return lines[0] if lines else type(error).__name__
