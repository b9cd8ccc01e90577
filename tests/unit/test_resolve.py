"""From a kernel's name to what boots: the choices that need no kernel."""

import platform

import pytest

from vimto.commands.resolve import default_package


@pytest.mark.parametrize(
    ("release", "package"),
    [
        ({"ID": "debian"}, "linux-image-amd64"),
        ({"ID": "ubuntu", "ID_LIKE": "debian"}, "linux-image-generic"),
        ({"ID": "linuxmint", "ID_LIKE": "ubuntu debian"}, "linux-image-generic"),
        ({}, "linux-image-amd64"),
    ],
)
def test_each_distribution_has_a_kernel_of_its_own(
    monkeypatch: pytest.MonkeyPatch, release: dict[str, str], package: str
) -> None:
    monkeypatch.setattr(platform, "freedesktop_os_release", lambda: release)
    assert default_package() == package


def test_a_system_that_does_not_say_what_it_is(monkeypatch: pytest.MonkeyPatch) -> None:
    def fail() -> dict[str, str]:
        raise FileNotFoundError("no os-release")

    monkeypatch.setattr(platform, "freedesktop_os_release", fail)
    assert default_package() == "linux-image-amd64"
