"""Go's durations, compared with Go's own where a go is installed."""

import json
import subprocess
from pathlib import Path

import pytest

from tests.conftest import need
from vimto.go.duration import format_duration, parse_duration

S = 1_000_000_000
KNOWN = {
    "10m": (600 * S, "10m0s"),
    "90s": (90 * S, "1m30s"),
    "1h": (3600 * S, "1h0m0s"),
    "1h1ns": (3600 * S + 1, "1h0m0.000000001s"),
    "1.5h": (5400 * S, "1h30m0s"),
    ".5s": (S // 2, "500ms"),
    "1.s": (S, "1s"),
    "+2m3.25s": (123 * S + S // 4, "2m3.25s"),
    "1500us": (1_500_000, "1.5ms"),
    "3µs": (3000, "3µs"),
    "7ns": (7, "7ns"),
    "61m": (3660 * S, "1h1m0s"),
}
REFUSED = ["", "5", "s", ".s", "1", "1d", "1 s", "-", "1s2", "s1", "٣s", "9999999h"]


@pytest.mark.parametrize("text", KNOWN)
def test_durations(text: str) -> None:
    value, shown = KNOWN[text]
    assert parse_duration(text) == value
    assert format_duration(value) == shown


def test_signs_and_zero() -> None:
    assert parse_duration("-1m") == -60 * S
    assert parse_duration("0") == parse_duration("-0") == parse_duration("0s") == 0


@pytest.mark.parametrize("text", REFUSED)
def test_no_durations(text: str) -> None:
    with pytest.raises(ValueError, match="is not a duration"):
        parse_duration(text)


def test_go_agrees(tmp_path: Path) -> None:
    need("go")
    words = [*KNOWN, *REFUSED]
    source = tmp_path / "main.go"
    source.write_text(
        'package main\n\nimport ("encoding/json"; "os"; "time")\n\nfunc main() {\n'
        "\tout := []any{}\n\tfor _, text := range os.Args[1:] {\n"
        "\t\tif d, err := time.ParseDuration(text); err != nil {\n\t\t\tout = append(out, nil)\n"
        "\t\t} else {\n\t\t\tout = append(out, []any{int64(d), d.String()})\n\t\t}\n\t}\n"
        "\tjson.NewEncoder(os.Stdout).Encode(out)\n}\n"
    )
    run = ["go", "run", str(source), *words]
    done = subprocess.run(run, cwd=tmp_path, capture_output=True, text=True, check=True)
    assert json.loads(done.stdout) == [
        *(list(pair) for pair in KNOWN.values()),
        *[None] * len(REFUSED),
    ]
