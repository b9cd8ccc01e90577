"""`.vimto.lock`: what it says, what it may not say, and what goes past it."""

import os
from pathlib import Path

import pytest

from vimto import cli, console
from vimto.commands import config as config_command
from vimto.config import Config, load_config
from vimto.errors import ConfigError
from vimto.kernel.reference import AptKernel, PinnedPackage, RegistryReference
from vimto.oci.manifest import host_platform
from vimto.plan import lock
from vimto.plan.kernels import named_kernel, wanted_kernel
from vimto.plan.lock import Locked, read_lock, write_lock
from vimto.settings import parse_flags

IMAGE = "reg.example/kernels:6.12"
DIGEST = "sha256:" + "a" * 64
HERE = host_platform().rpartition("/")[2]
PACKAGES = (
    PinnedPackage("linux-image-6.1.0-42-amd64", "1:6.1.159-1", HERE, "b" * 64),
    PinnedPackage("linux-modules-6.1.0-42-amd64", "6.1.159-1", HERE, "c" * 64),
)
OTHERS = (PinnedPackage("linux-image-6.1.0-42-s390", "6.1.159-1", "s390x", "d" * 64),)
META = "apt:linux-image-amd64/bookworm-security"
ENTRIES = [
    Locked(META, architecture=HERE, packages=PACKAGES),
    Locked(META, architecture="s390x", packages=OTHERS),
    Locked(IMAGE, digest=DIGEST),
]


@pytest.fixture(autouse=True)
def quiet(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(console, "_verbosity", [0])
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path / "none"))
    monkeypatch.chdir(tmp_path)
    lock._say.cache_clear()


def configured(kernel: str, *words: str, **environ: str) -> Config:
    if kernel:
        Path(".vimto.toml").write_text(f'kernel = "{kernel}"\n')
    flags, _ = parse_flags(words)
    return load_config(flags, environ, Path.cwd())


def test_what_is_written_is_read(tmp_path: Path) -> None:
    path = tmp_path / ".vimto.lock"
    assert write_lock(path, reversed(ENTRIES))
    assert read_lock(path) == sorted(ENTRIES)
    assert path.stat().st_mode & 0o777 == 0o644
    before = path.stat().st_ino
    assert not write_lock(path, ENTRIES) and path.stat().st_ino == before
    assert os.listdir(tmp_path) == [".vimto.lock"]


def test_a_lock_decides(capfd: pytest.CaptureFixture[str]) -> None:
    write_lock(Path(".vimto.lock"), ENTRIES)
    wanted = wanted_kernel(configured(IMAGE))
    assert wanted == RegistryReference("reg.example", "kernels", "6.12", DIGEST)
    assert str(wanted) == f"{IMAGE}@{DIGEST}"
    wanted = wanted_kernel(configured(META))
    assert wanted == AptKernel("linux-image-amd64", "bookworm-security", pinned=PACKAGES)
    assert str(wanted) == "apt:linux-image-6.1.0-42-amd64=1:6.1.159-1"
    assert capfd.readouterr().err == ""


def test_the_configuration_shows_it(capfd: pytest.CaptureFixture[str]) -> None:
    config = configured(IMAGE)
    assert "in use" not in config_command.show_toml(config).splitlines()[2]
    write_lock(Path(".vimto.lock"), ENTRIES)
    line = config_command.show_toml(config).splitlines()[2]
    assert line.startswith(f'kernel = "{IMAGE}"')
    assert line.endswith(f"/.vimto.toml: kernel; in use: {IMAGE}@{DIGEST}, by .vimto.lock")
    assert f'"in_use": "{IMAGE}@{DIGEST}, by .vimto.lock"' in config_command.show_json(config)


@pytest.mark.parametrize(
    ("words", "environ", "said"),
    [
        (("-kernel", IMAGE), {}, "-kernel goes past"),
        (("-kernel", ":6.12"), {}, "-kernel goes past"),
        ((), {"VIMTO_KERNEL": IMAGE}, "$VIMTO_KERNEL goes past"),
        (("-pull", "always"), {}, "`-pull always` goes past"),
    ],
)
def test_what_goes_past_it(
    words: tuple[str, ...],
    environ: dict[str, str],
    said: str,
    tmp_path: Path,
    capfd: pytest.CaptureFixture[str],
) -> None:
    Path(".vimto.lock").write_text("not even TOML")
    config = configured(IMAGE, *words, **environ)
    for _ in range(2):
        assert wanted_kernel(config) == RegistryReference("reg.example", "kernels", "6.12")
    assert capfd.readouterr().err == f"vimto: {said} `{tmp_path}/.vimto.lock`\n"


def test_a_kernel_that_the_lock_does_not_have(
    tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    write_lock(Path(".vimto.lock"), [ENTRIES[1], ENTRIES[2]])
    for name in (IMAGE.replace("6.12", "6.6"), META):  # the latter for another architecture only
        config = configured(name)
        assert wanted_kernel(config) == named_kernel(config)
        said = f"`{name}` is not in `{tmp_path}/.vimto.lock`; `vimto kernel lock` adds it\n"
        assert capfd.readouterr().err == f"vimto: {said}"


@pytest.mark.parametrize("kernel", [f"{IMAGE}@{DIGEST}", "host", "", "./bzImage", "oci:layout"])
def test_what_needs_no_lock(kernel: str, capfd: pytest.CaptureFixture[str]) -> None:
    Path("bzImage").touch()
    Path("layout").mkdir()
    Path(".vimto.toml").touch()
    write_lock(Path(".vimto.lock"), ENTRIES)
    config = configured(kernel)
    assert wanted_kernel(config) == named_kernel(config)
    assert capfd.readouterr().err == ""


def test_a_lock_is_about_the_file_beside_it(tmp_path: Path) -> None:
    write_lock(Path(".vimto.lock"), ENTRIES)
    (tmp_path / "below/.git").mkdir(parents=True)
    os.chdir("below")
    assert wanted_kernel(configured(IMAGE)) == RegistryReference("reg.example", "kernels", "6.12")
    os.chdir("..")
    Path(".vimto.toml").unlink(missing_ok=True)
    assert wanted_kernel(configured("")) is None


GOOD = f'version = 1\n[[kernel]]\nname = "{IMAGE}"\ndigest = "{DIGEST}"\n'
PACKAGE = f'{{ name = "x-1", version = "1", sha256 = "{"0" * 64}" }}'
APT = f'version = 1\n[[kernel]]\nname = "{META}"\narchitecture = "{HERE}"\npackages = [{PACKAGE}]\n'


@pytest.mark.parametrize(
    "text",
    [
        b"<<<<<<< HEAD\n" + GOOD.encode(),
        b"\xff",
        b"",
        b"version = 'x'",
        b"version = 0",
        b"version = 1\nkernel = 'x'",
        b"version = 1\nkernel = ['x']",
        b"version = 1\nkernels = []",
        b"a = " + b"[" * 5000,
        GOOD.replace("aaa", "a/a").encode(),
        GOOD.replace("sha256", "sha512").encode(),
        GOOD.replace("digest", "image").encode(),
        GOOD.replace(f'"{DIGEST}"', "7").encode(),
        (GOOD + 'registry = "evil.example"\n').encode(),
        APT.replace("[{", "[]#").encode(),
        APT.replace("x-1", "../x").encode(),
        APT.replace("x-1", "-x").encode(),
        APT.replace('"1"', '"1/../../x"').encode(),
        APT.replace("00", "0g").encode(),
        APT.replace(f'"{HERE}"', '"../x"').encode(),
        APT.replace(f'"{HERE}"', "7").encode(),
        APT.replace("[{", '["x", {').encode(),
    ],
)
def test_a_corrupt_lock_is_said_to_be_one(
    text: bytes, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / ".vimto.lock"
    path.write_bytes(text)
    config = configured(IMAGE)
    with pytest.raises(ConfigError, match=r"\.vimto\.lock` cannot be used: ") as caught:
        wanted_kernel(config)
    assert "`vimto kernel lock -update`" in caught.value.hint
    assert cli.run(["kernel", "lock"]) == 125  # it is not for us to throw away
    assert path.read_bytes() == text and "cannot be used" in capfd.readouterr().err


def test_the_good_ones_are_good(tmp_path: Path) -> None:
    for text in (GOOD, APT):
        Path(".vimto.lock").write_text(text)
        assert len(read_lock(Path(".vimto.lock"))) == 1


@pytest.mark.parametrize("kind", ["directory", "fifo", "future", "unreadable"])
def test_a_lock_that_cannot_be_read(kind: str) -> None:
    path = Path(".vimto.lock")
    if kind == "directory":
        path.mkdir()
    elif kind == "fifo":
        os.mkfifo(path)
    elif kind == "unreadable":
        path.symlink_to("nowhere")
    else:
        path.write_text("version = 2\nkernel = 'in another way'\n")
    said = "has the format 2, and this vimto knows 1" if kind == "future" else "cannot be read"
    with pytest.raises(ConfigError, match=said):
        wanted_kernel(configured(IMAGE))


@pytest.mark.parametrize(
    ("kernel", "words", "said"),
    [
        ("", ["kernel", "lock"], "there is no `.vimto.toml` here"),
        ("host", ["kernel", "lock"], "there is nothing to lock: `host`"),
        (f"{IMAGE}@{DIGEST}", ["kernel", "lock"], "there is nothing to lock"),
        (IMAGE, ["kernel", "lock", "-renew"], "does not know `-renew`"),
        (IMAGE, ["kernel", "lock", "-update", "x"], "does not know `-update`"),
        (IMAGE, ["-kernel", ":6", "kernel", "lock"], "-kernel stands in the way"),
    ],
)
def test_mistakes(
    kernel: str, words: list[str], said: str, capfd: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    configured(kernel)
    assert cli.run(words) == 125
    assert said in capfd.readouterr().err
    assert not Path(".vimto.lock").exists()


def test_what_needs_no_lock_any_more_loses_it(capfd: pytest.CaptureFixture[str]) -> None:
    write_lock(Path(".vimto.lock"), ENTRIES)
    configured("host")
    assert cli.run(["kernel", "lock"]) == 0
    out, err = capfd.readouterr()
    assert out == f"{META} removed\n{IMAGE} removed\n" and "`host` needs no lock" in err
    assert not Path(".vimto.lock").exists()
