"""What the programs of this project share: settings from the command line, mistakes in one line."""

from __future__ import annotations

import contextlib
import io
import sys
from collections.abc import Iterator, Sequence
from typing import NoReturn, TypeVar

import tyro

Settings = TypeVar("Settings")

# Errors of our own that are no ValueError, by name: importing training.py would import TensorFlow.
OURS = ("InUseError", "ProcessError", "RunError", "TrainingError")


def read_settings(
    kind: type[Settings],
    arguments: Sequence[str],
    program: str,
    description: str,
    default: Settings,
) -> Settings:
    """Command line -> a dataclass of settings. A mistake ends in SystemExit(2).

    Args:
        kind: the dataclass; `--help` shows the sentence under each field.
        arguments: as typed.
        program: its name, in the help and before a message.
        description: the head of the help.
        default: values of what is not typed.
    """
    complaint = io.StringIO()
    try:
        with contextlib.redirect_stderr(complaint):
            return tyro.cli(
                kind,
                prog=program,
                description=description,
                default=default,
                args=arguments,
                config=(tyro.conf.FlagConversionOff,),
            )
    except SystemExit as stop:
        if stop.code:
            fail(program, _one_line(complaint.getvalue()))
        raise


def _one_line(box: str) -> str:
    """The message out of the box that tyro draws around it."""
    message = []
    for line in box.splitlines()[1:]:
        text = line.strip("│╰╯╭╮─ ")
        if text.strip("-"):
            message.append(text)
        elif message:  # a blank line, or a rule, which is of "-" where the terminal has no "─"
            break
    return " ".join(message)


def fail(program: str, message: str) -> NoReturn:
    """One line on stderr, exit code 2."""
    print(f"{program}: {message}", file=sys.stderr)
    raise SystemExit(2)


@contextlib.contextmanager
def explained(program: str, interrupted: str) -> Iterator[None]:
    """Errors about data, settings and files inside become one line; others keep their traceback.

    Args:
        program: its name.
        interrupted: what to say after Ctrl-C.
    """
    try:
        yield
    # Every error of our own about data and settings, and what the file system refuses.
    except (ValueError, OSError) as error:
        if type(error) is ValueError:
            raise
        fail(program, str(error))
    except RuntimeError as error:
        if type(error).__name__ not in OURS:
            raise
        fail(program, str(error))
    except KeyboardInterrupt:
        fail(program, interrupted)
