"""Some commands take vimto's flags behind their name as well."""

import pytest

from vimto import cli


def test_doctor(capfd: pytest.CaptureFixture[str]) -> None:
    assert cli.run(["-kernel", "a", "doctor", "-nonsense"]) == 125
    assert "unknown flag `-nonsense`" in capfd.readouterr().err


def test_exec(capfd: pytest.CaptureFixture[str]) -> None:
    assert cli.run(["exec", "-memory", "1", "--", "true"]) == 125
    assert "`1` is too little" in capfd.readouterr().err


def test_a_program_s_own_flags_are_left_alone(capfd: pytest.CaptureFixture[str]) -> None:
    assert cli.run(["manual", "-nonsense"]) == 125
    assert "unexpected argument `-nonsense`" in capfd.readouterr().err
