"""Addresses and pairs of them, as users write them."""

import pytest

from vimto.addresses import Address, parse_address, parse_forwards, parse_pair, place_pair


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("8080", "127.0.0.1:8080"),
        (":8080", "127.0.0.1:8080"),
        ("0.0.0.0:80", "0.0.0.0:80"),
        ("localhost:0", "localhost:0"),
        ("[::1]:80", "[::1]:80"),
        ("unix:a.sock", "a.sock"),
        ("/run/a:b.sock", "/run/a:b.sock"),
        ("./a", "./a"),
    ],
)
def test_addresses(text: str, shown: str) -> None:
    address = parse_address(text)
    assert str(address) == shown
    assert address.network == ("unix" if address.path else "tcp")


@pytest.mark.parametrize(
    "text",
    [
        "",
        "host",
        "host:http",
        "²",
        "٣",
        "9" * 5000,
        "::1",
        "::1:80",
        "1:65536",
        "-1",
        "unix:",
        "/" + "a" * 107,
    ],
)
def test_no_addresses(text: str) -> None:
    with pytest.raises(ValueError, match=r"^is not "):
        parse_address(text)


def test_pairs() -> None:
    here, there = parse_pair("[::1]:0=/run/guest.sock")
    assert here == Address(host="::1", port=0)
    assert there == Address(path="/run/guest.sock")
    here, there = parse_pair("0.0.0.0:80")
    assert str(here) == "0.0.0.0:80"
    assert str(there) == "127.0.0.1:80"


@pytest.mark.parametrize(
    ("text", "placed"),
    [
        ("80", "80"),
        ("/a/b=80", "/a/b=80"),
        ("./a/b=80", "unix:/repo/a/b=80"),
        ("unix:b=unix:c", "unix:/repo/b=unix:c"),
        ("../b=/run/c=d", "unix:/b=/run/c=d"),
        ("", ""),
    ],
)
def test_the_path_on_the_host_s_side_is_relative_to_a_directory(text: str, placed: str) -> None:
    assert place_pair(text, "/repo") == placed


@pytest.mark.parametrize("directory", ["/a=b", "/" + "a" * 107])
def test_a_path_that_cannot_be_written(directory: str) -> None:
    with pytest.raises(ValueError, match=r"must not hold|is not the path"):
        place_pair("unix:s=80", directory)


@pytest.mark.parametrize("text", ["0", "80=0", "/a.sock", "80=", "=80", "80=a=b"])
def test_no_pairs(text: str) -> None:
    with pytest.raises(ValueError, match=r"^(is|names) no"):
        parse_pair(text)


def test_a_setting_of_many() -> None:
    assert parse_forwards(["80=81", ""]) == ("80=81", "")
    assert parse_forwards("/a=/b") == ("/a=/b",)
    with pytest.raises(ValueError, match="is not a string"):
        parse_forwards([80])
    with pytest.raises(ValueError, match="is not an address"):
        parse_forwards(["80=x"])
