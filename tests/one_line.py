"""The one line on stderr with which a command ends at a mistake."""

import re

import pytest


def one_line(main, begins, capsys, *arguments):
    """What a command says of a mistake before it ends with exit code 2; `begins` is a pattern."""
    with pytest.raises(SystemExit) as stop:
        main([str(argument) for argument in arguments])
    shown = capsys.readouterr().err
    assert stop.value.code == 2
    assert re.match(begins, shown), shown
    assert shown.count("\n") == 1
    return shown
