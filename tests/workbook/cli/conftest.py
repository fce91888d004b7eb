"""Commands as a user calls them."""

import pytest

from lib.workbook.cli import main


@pytest.fixture
def said(capsys):
    """What a command that succeeds prints."""

    def lines(*arguments):
        capsys.readouterr()
        assert main(list(map(str, arguments))) == 0
        return capsys.readouterr().out.splitlines()

    return lines


@pytest.fixture
def refused(capsys):
    """The one line with which a command fails."""

    def line(*arguments):
        capsys.readouterr()
        assert main(list(map(str, arguments))) == 1
        out, err = capsys.readouterr()
        (error,) = err.splitlines()
        assert out == ""
        assert error.startswith("error: ")
        return error

    return line
