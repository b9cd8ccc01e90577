"""`vimto config` and the page that it writes."""

import json
import tomllib
from pathlib import Path

import pytest

from vimto.commands import config as command
from vimto.config import Config, load_config
from vimto.errors import UsageError
from vimto.settings import SETTINGS, parse_flags

PAGE = Path(__file__).parents[2] / "docs/configuration.md"


@pytest.fixture
def config(tmp_path: Path) -> Config:
    flags, _ = parse_flags(["-share", 'a"b', "-setup", "x 'y z'", "-timeout", "90s", "-v"])
    return load_config(flags, {"VIMTO_MEMORY": "1536M"}, tmp_path)


def test_what_is_printed_can_be_used_as_the_file(
    config: Config, tmp_path: Path, capfdbinary: pytest.CaptureFixture[bytes]
) -> None:
    assert command.run(config, []) == 0
    out = capfdbinary.readouterr().out.decode()
    assert 'memory = "1536M"' in out
    assert "# $VIMTO_MEMORY" in out
    assert list(tomllib.loads(out)) == [row.key for row in SETTINGS]
    (tmp_path / ".vimto.toml").write_text(out)
    again = load_config({}, {}, tmp_path)
    for row in SETTINGS:
        assert getattr(again, row.key) == getattr(config, row.key)


def test_what_is_printed_does_nothing_to_a_terminal(
    tmp_path: Path, capfdbinary: pytest.CaptureFixture[bytes]
) -> None:
    directory = tmp_path / "a\n\x9b2J"
    directory.mkdir()
    (directory / ".vimto.toml").write_text('setup = ["\\u001b[2J \\u202e"]')
    config = load_config({}, {}, directory)
    assert command.run(config, []) == 0
    out = capfdbinary.readouterr().out.decode()
    assert "a\\n\\x9b2J/.vimto.toml: setup" in out
    assert out.replace("\n", "").isprintable()
    assert tomllib.loads(out)["setup"] == [["\x1b[2J", "\u202e"]]


def test_json(config: Config, capfdbinary: pytest.CaptureFixture[bytes]) -> None:
    assert command.run(config, ["--json"]) == 0
    values = json.loads(capfdbinary.readouterr().out)
    assert values["memory"] == {"value": 1536, "origin": "$VIMTO_MEMORY"}
    assert values["setup"] == {"value": [["x", "y z"]], "origin": "-setup"}
    assert values["smp"] == {"value": 2, "origin": "default"}


def test_the_page_is_up_to_date() -> None:
    assert PAGE.read_text() == command.show_reference(), "run `vimto config -markdown >` it"


@pytest.mark.parametrize("words", [["-xml"], ["x"], ["-json", "x"]])
def test_other_words_are_refused(config: Config, words: list[str]) -> None:
    with pytest.raises(UsageError, match=f"does not understand `{words[-1]}`"):
        command.run(config, words)


def test_what_vimto_chooses_itself_is_shown(config: Config) -> None:
    chosen = command.in_use(config)
    assert chosen.keys() >= {"kernel", "user", "accel", "boot_timeout"}
    assert chosen["boot_timeout"] in ("60s", "180s")
    assert f"; in use: {chosen['accel']}\n" in command.show_toml(config)
    assert json.loads(command.show_json(config))["accel"]["in_use"] == chosen["accel"]
    own = config._replace(kernel="host", user="root", accel="tcg", qemu="/q", boot_timeout=1.0)
    assert command.in_use(own) == {}
