from pathlib import Path

import pytest

from vimto.errors import KernelError
from vimto.kernel import sources

DEB822 = """\
Types: deb
# a comment in the middle
URIs: http://mirror.example/debian
Suites: bookworm bookworm-updates
Components: main contrib
Signed-By:
 -----BEGIN PGP PUBLIC KEY BLOCK-----
 .
 mQINBF
 -----END PGP PUBLIC KEY BLOCK-----

Types: deb deb-src
URIs: http://mirror.example/security
Suites: bookworm-security
Components: main
Signed-By: /usr/share/keyrings/x.gpg

Enabled: no
Types: deb
URIs: http://mirror.example/disabled
Suites: sid
Components: main

Types: deb-src
URIs: http://mirror.example/source
Suites: sid
Components: main
"""

ONE_LINE = """\
# deb http://mirror.example/off sid main
deb [arch=amd64 signed-by=/k.gpg] https://vendor.example/linux bookworm stable
deb http://mirror.example/debian bookworm main  # a comment
deb-src http://mirror.example/debian bookworm main
deb [trusted=yes] file:/srv/flat ./
"""


def test_deb822() -> None:
    first, second = sources.parse_sources(DEB822)
    assert first["uris"] == "http://mirror.example/debian"
    assert first["suites"] == "bookworm bookworm-updates"
    assert "mQINBF" in first["signed-by"]
    assert second["types"] == "deb"


def test_one_line_style() -> None:
    vendor, debian, flat = sources.parse_list(ONE_LINE)
    assert vendor == {
        "types": "deb",
        "uris": "https://vendor.example/linux",
        "suites": "bookworm",
        "components": "stable",
        "architectures": "amd64",
        "signed-by": "/k.gpg",
    }
    assert debian["components"] == "main"
    assert flat == {
        "types": "deb", "uris": "file:/srv/flat", "suites": "./", "components": "",
        "trusted": "yes",
    }  # fmt: skip


def test_what_is_written_reads_the_same() -> None:
    parsed = sources.parse_sources(DEB822)
    assert sources.parse_sources(sources.render_sources(parsed)) == parsed


def test_files_by_their_suffix(tmp_path: Path) -> None:
    (tmp_path / "a.list").write_text(ONE_LINE)
    (tmp_path / "b.sources").write_text(DEB822)
    files = [tmp_path / "a.list", tmp_path / "b.sources", tmp_path / "missing.list"]
    assert len(sources.read_sources(files)) == 5


MACHINE = [*sources.parse_list(ONE_LINE), *sources.parse_sources(DEB822)]


@pytest.mark.parametrize(
    ("suite", "uri"),
    [
        ("bookworm-updates", "http://mirror.example/debian"),
        ("bookworm-security", "http://mirror.example/security"),
        ("sid", "http://mirror.example/debian"),
        ("bullseye-security", "http://mirror.example/security"),
    ],
)
def test_another_suite_has_the_same_mirror(suite: str, uri: str) -> None:
    (found,) = sources.choose_sources(MACHINE, suite, codename="bookworm")
    assert (found["uris"], found["suites"]) == (uri, suite)
    assert "main" in found["components"]


def test_the_machines_release_shows_its_own_archive() -> None:
    vendor = sources.parse_list("deb https://vendor.example/linux any main\n")
    (found,) = sources.choose_sources([*vendor, *MACHINE], "sid", codename="bookworm")
    assert found["uris"] == "http://mirror.example/debian"


def test_a_foreign_release_does_not_matter() -> None:
    (found,) = sources.choose_sources(MACHINE, "sid", codename="trixie")
    assert found["uris"] == "http://mirror.example/debian"


def test_nothing_to_start_from() -> None:
    with pytest.raises(KernelError, match="no security archive"):
        sources.choose_sources(
            sources.parse_list(ONE_LINE), "bullseye-security", codename="bookworm"
        )
    with pytest.raises(KernelError, match="no archive"):
        sources.choose_sources([], "sid", codename="bookworm")
