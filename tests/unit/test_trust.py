"""What a repository's file may ask for, key by key, and how its user says yes instead."""

import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import platformdirs
import pytest

from vimto.commands.gdb import _Run
from vimto.config import Config, load_config, user_file_path
from vimto.errors import ConfigError
from vimto.gdb.options import parse_options
from vimto.settings import SETTINGS, parse_flags
from vimto.trust import Place

# Each row of the table, with values that a repository may have and values that it may not.
MAY: dict[str, tuple[str, ...]] = {
    "kernel": ('"./bzImage"', '"../bzImage"', '"reg.example/x:1"', '"apt:linux-image-amd64"'),
    "memory": ('"2G"',),
    "smp": ("4",),
    "cpu": ('"qemu64,+avx2"',),
    "user": ('"root"',),
    "sudo": ("true",),
    "setup": ('["rm -rf /"]',),
    "teardown": ('["dmesg"]',),
    "share": ('["data"]', '["data:ro", "./new"]', '["pkg/../data"]', '["."]', '["inside"]', "[]"),
    "disk": (
        '["1G", "64M"]',
        '["raw.img"]',
        '["pkg/../raw.img", "inside/x.img:ro"]',
        '["alone.qcow2", "alone.qcow2:ro"]',
        "[]",
    ),
    "kernel_args": ('["init=/evil"]',),
    "sysctl": ('["kernel.panic=1"]',),
    "accel": ('"tcg"',),
    "qemu": (),
    "device": ("[]",),
    "nic": ("[]",),
    "qemu_args": ("[]",),
    "boot_timeout": ('"10m"',),
    "timeout": ('"10m"',),
    "stop_timeout": ('"30s"',),
    "snapshot": ("false",),
    "cache_limit": (),
    "snapshot_limit": (),
    "link_cache": ("false",),
    "link_limit": (),
    "pull": ('"always"',),
    "pull_fresh": ('"1h"',),
    "image_limit": (),
    "insecure_registry": ("[]",),
    "net": ('"user"',),
    "forward": (
        '["8080"]',
        '["127.0.0.2:0=80"]',
        '["localhost:1=2"]',
        '["[::1]:1=2"]',
        '["pkg/s=1"]',
        "[]",
    ),
    "gdb": ("true",),
    "vmlinux": (),
    "cache_dir": (),
    "verbose": ("1",),
}
MAY_NOT: dict[str, tuple[str, ...]] = {
    "share": (
        '["/etc"]',
        '["/"]',
        '["~/.ssh"]',
        '["~/.ssh:ro"]',
        '[".."]',
        '["../repo2"]',
        '["pkg/../../x"]',
        '["outside"]',
        '["outside/below"]',
        '["outside/new"]',
        '["/tmp:ro"]',
        '["data", "/etc"]',
    ),
    "disk": (
        '["/dev/sda"]',
        '["/etc/passwd:ro"]',
        '["../x.img"]',
        '["outside/x.img:rw"]',
        '["raw.img:rw"]',
        '["1G", "~/x.img"]',
        '["backed.qcow2"]',
        '["alone.qcow2:rw"]',
    ),
    "device": ('["virtio-balloon-pci"]', '["vhost-vsock-pci,guest-cid=3"]'),
    "nic": ('["user"]', '["tap,ifname=tap0"]'),
    "qemu_args": ('["-object x"]', '["-drive file=/etc/passwd"]'),
    "qemu": ('"./evil"', '"qemu-kvm"', '"/usr/bin/qemu-system-x86_64"'),
    "cache_limit": ("0", '"100T"'),
    "snapshot_limit": ("0", '"100T"'),
    "link_limit": ("0", '"100T"'),
    "image_limit": ('"100T"', '"1M"'),
    "insecure_registry": ('["reg.example"]', '[""]'),
    "forward": (
        '["0.0.0.0:80=80"]',
        '["[::]:80=80"]',
        '["192.0.2.1:80=80"]',
        '["evil.example:80=80"]',
        '["0:80=80"]',
        '["/run/s=80"]',
        '["../s=80"]',
        '["outside/s=80"]',
        '["8080", "0.0.0.0:80=80"]',
    ),
    "vmlinux": ('"boot/vmlinux"', '"/usr/lib/debug/vmlinux"'),
    "cache_dir": ('"cache"', '"/var/cache"', '""'),
}
FLAGS = {
    "disk": "/dev/sda",
    "device": "virtio-balloon-pci",
    "nic": "user",
    "share": "/etc",
    "qemu": "./evil",
    "cache_limit": "9G",
    "snapshot_limit": "1G",
    "link_limit": "1G",
    "image_limit": "1G",
    "insecure_registry": "reg.example",
    "forward": "0.0.0.0:80=80",
    "vmlinux": "./vmlinux",
    "cache_dir": "/var/cache",
}


@pytest.fixture
def repository(tmp_path: Path) -> Path:
    root = tmp_path / "repo"
    for name in (".git", "pkg", "data", "../elsewhere/below", "../repo2"):
        (root / name).mkdir(parents=True)
    (root / "outside").symlink_to("../elsewhere")
    (root / "inside").symlink_to("data")
    head = b"QFI\xfb" + (3).to_bytes(4, "big")
    (root / "raw.img").write_bytes(bytes(512))
    (root / "alone.qcow2").write_bytes(head + bytes(504))
    (root / "backed.qcow2").write_bytes(head + (512).to_bytes(8, "big") + bytes(496))
    return root


def load(directory: Path, text: str, *words: str, env: dict[str, str] | None = None) -> Config:
    (directory / ".vimto.toml").write_text(text)
    flags, rest = parse_flags(words)
    assert not rest
    return load_config(flags, env or {}, directory)


def cases(table: dict[str, tuple[str, ...]]) -> list[tuple[str, str]]:
    return [(key, value) for key, values in table.items() for value in values]


def test_each_setting_is_thought_of() -> None:
    assert {row.key for row in SETTINGS} == MAY.keys()
    for row in SETTINGS:
        assert MAY[row.key] or MAY_NOT[row.key]
        assert row.trust.words.startswith(("may set it: ", "may not set it: ", "may only "))


@pytest.mark.parametrize(("key", "value"), cases(MAY))
def test_a_repository_may(repository: Path, key: str, value: str) -> None:
    config = load(repository, f"{key} = {value}")
    if value != "[]":
        assert config.origins[key] == f"{repository}/.vimto.toml: {key}"


@pytest.mark.parametrize(("key", "value"), cases(MAY_NOT))
def test_a_repository_may_not(repository: Path, config_home: Path, key: str, value: str) -> None:
    (repository / "new").mkdir()
    with pytest.raises(ConfigError, match="asks for what only you may") as caught:
        load(repository, f"memory = '1G'\n{key} = {value}")
    (line,) = caught.value.lines
    assert line.startswith(f".vimto.toml:2: `{key}`: ")
    for word in (f"-{key.replace('_', '-')}", f"VIMTO_{key.upper()}", str(config_home)):
        assert word in caught.value.hint


@pytest.mark.parametrize("key", FLAGS)
@pytest.mark.parametrize("source", ["flag", "variable", "own file"])
def test_but_its_user_may(repository: Path, config_home: Path, key: str, source: str) -> None:
    theirs, value = MAY_NOT[key][0], FLAGS[key]
    words, env = [], {}
    (row,) = (row for row in SETTINGS if row.key == key)
    if row.kind.many:
        theirs = f'["{value}"]'
    if source == "flag":
        words = [f"-{row.flags[0]}", value]
    elif source == "variable":
        env = {row.variable: value}
    else:
        (config_home / "vimto").mkdir()
        own = f'["{value}"]' if row.kind.many else f'"{value}"'
        (config_home / "vimto/config.toml").write_text(f"{key} = {own}")
    config = load(repository, f"{key} = {theirs}", *words, env=env)
    assert ".vimto.toml" not in config.origins[key]
    if row.kind.many:
        assert getattr(config, key) == (value,)


def test_a_yes_is_to_one_item_and_the_user_s_own_form(repository: Path) -> None:
    text = 'share = ["../elsewhere", "data"]'
    config = load(repository, text, "-share", f"{repository.parent}/elsewhere:ro")
    assert config.share == (f"{repository}/data", f"{repository.parent}/elsewhere:ro")
    with pytest.raises(ConfigError):
        load(repository, text, "-share", "/etc")
    assert load(repository, text, "-share", "", "-share", "/etc").share == ("/etc",)


def test_all_offenders_are_listed_together(repository: Path) -> None:
    text = 'qemu = "./evil"\nshare = ["data", "/etc", "outside"]\n\ncache_dir = "c"\n'
    with pytest.raises(ConfigError) as caught:
        load(repository, text)
    assert caught.value.lines == (
        f".vimto.toml:2: `share`: `/etc` lies outside of the repository `{repository}`",
        f".vimto.toml:2: `share`: `{repository}/outside` lies outside of the repository "
        f"`{repository}`",
        ".vimto.toml:1: `qemu`: it is a program that runs on the host",
        ".vimto.toml:4: `cache_dir`: it is written to outside of the repository, and what it holds "
        "is executed",
    )


@pytest.mark.parametrize("git", [True, False])
def test_a_file_in_a_working_directory_is_no_more_trusted(tmp_path: Path, git: bool) -> None:
    directory = tmp_path / "a/b"
    (directory / "c").mkdir(parents=True)
    if git:
        (tmp_path / "a/.git").mkdir()
    with pytest.raises(ConfigError):
        load(directory, 'qemu = "./evil"')
    with pytest.raises(ConfigError):
        load(directory, 'share = ["../.."]')
    assert load(directory, 'share = ["c"]').share == (f"{directory}/c",)
    if git:  # beside it, and in the repository
        assert load(directory, 'share = [".."]').share == (f"{tmp_path}/a",)
    else:
        with pytest.raises(ConfigError):
            load(directory, 'share = [".."]')


def test_a_repository_that_is_reached_by_a_link(repository: Path, tmp_path: Path) -> None:
    (tmp_path / "link").symlink_to(repository)
    directory = tmp_path / "link"
    assert load(directory, 'share = ["data"]').share == (f"{directory}/data",)
    with pytest.raises(ConfigError):
        load(directory, 'share = [".."]')


def test_places_are_told_by_whole_names(tmp_path: Path) -> None:
    place = Place(root=str(tmp_path / "repo"))
    assert place.holds(f"{tmp_path}/repo") and place.holds(f"{tmp_path}/repo/x")
    assert not place.holds(f"{tmp_path}/repo2") and not place.holds(f"{tmp_path}/repo/../repo2")
    assert Place(root="/").holds("/etc")


# -- the user's own file


def own(config_home: Path, text: str) -> Path:
    (config_home / "vimto").mkdir(exist_ok=True)
    path = config_home / "vimto/config.toml"
    path.write_text(text)
    return path


def test_the_user_s_file_is_weaker_than_the_repository_s(
    repository: Path, config_home: Path
) -> None:
    path = own(config_home, 'memory = "3G"\nsmp = 3\nsetup = ["one"]\nshare = ["d", "/etc"]')
    config = load(repository, 'memory = "2G"\nsetup = ["two"]\nshare = ["data"]')
    assert (config.memory, config.smp) == (2048, 3)
    assert config.setup == (("one",), ("two",))
    assert config.share == (f"{path.parent}/d", "/etc", f"{repository}/data")
    assert config.origins["smp"] == f"{path}: smp"
    assert config.origins["setup"] == f"{path}: setup, {repository}/.vimto.toml: setup"
    assert (config.user_file, config.file) == (path, repository / ".vimto.toml")
    assert load(repository, "", "-smp", "1").smp == 1


def test_a_fault_in_the_user_s_file_is_told(repository: Path, config_home: Path) -> None:
    own(config_home, "memroy = 1")
    with pytest.raises(ConfigError) as caught:
        load_config({}, {}, repository)
    assert caught.value.lines == ("config.toml:1: `memroy`; did you mean `memory`?",)


def homeless(_name: str) -> Path:
    raise RuntimeError("could not determine the home directory")


@pytest.mark.parametrize("find", [lambda _name: Path("~/.config/vimto"), homeless])
def test_without_a_home_there_is_no_user_s_file(
    repository: Path, monkeypatch: pytest.MonkeyPatch, find: Callable[[str], Path]
) -> None:
    # What platformdirs does, by its version: `~` that nothing expands, in the working directory.
    monkeypatch.setattr(platformdirs, "user_config_path", find)
    monkeypatch.setattr(platformdirs, "user_cache_path", find)
    (repository / "~/.config/vimto").mkdir(parents=True)
    (repository / "~/.config/vimto/config.toml").write_text('qemu = "./evil"')
    monkeypatch.chdir(repository)
    assert user_file_path() == ""
    assert load_config({}, {"VIMTO_CACHE_DIR": "/c"}, repository).qemu == ""
    with pytest.raises(ConfigError, match="no home directory for the cache"):
        load_config({}, {}, repository)


@pytest.mark.parametrize("kind", ["pipe", "device", "directory", "large"])
def test_what_is_no_file_is_not_read(repository: Path, kind: str) -> None:
    path = repository / ".vimto.toml"
    if kind == "pipe":
        os.mkfifo(path)
    elif kind == "device":
        path.symlink_to("/dev/zero")
    elif kind == "directory":
        path.mkdir()
    else:
        path.write_text("#" * (2 << 20))
    with pytest.raises(ConfigError, match=r"cannot be read"):
        load_config({}, {}, repository)


# -- whose choice the kernel is


@pytest.mark.parametrize(
    ("own_kernel", "theirs", "flag", "foreign"),
    [
        ("", "", "", False),
        ("", "a.b/c:1", "", True),
        ("a.b/c:1", "", "", False),
        ("a.b/c:1", "d.e/f:1", "", True),
        ("a.b/c:1", ":2", "", False),
        ("", "a.b/c:1", "d.e/f:1", False),
        ("", "a.b/c:1", ":2", True),
        ("", "./tree", "./tree", False),
    ],
)
def test_the_kernel_is_foreign(
    repository: Path, config_home: Path, own_kernel: str, theirs: str, flag: str, foreign: bool
) -> None:
    if own_kernel:
        own(config_home, f'kernel = "{own_kernel}"')
    text = f'kernel = "{theirs}"' if theirs else ""
    config = load(repository, text, *(["-kernel", flag] if flag else []))
    assert config.foreign_kernel is foreign


@pytest.mark.parametrize(("foreign", "vmlinux", "runs"), [(0, "", 1), (1, "", 0), (1, "f", 1)])
def test_a_foreign_kernel_s_scripts_are_not_run_by_gdb(
    repository: Path,
    capfd: pytest.CaptureFixture[str],
    foreign: int,
    vmlinux: str,
    runs: int,
) -> None:
    config = load(repository, 'kernel = "./tree"' if foreign else "")
    (repository / "vmlinux-gdb.py").touch()
    options = parse_options(["-vmlinux", vmlinux] if vmlinux else [])
    nothing: Any = None
    run = _Run(config, options, nothing, nothing, repository)
    assert run._trusts_scripts(repository / "vmlinux") is bool(runs)
    assert ("vmlinux-gdb.py" in capfd.readouterr().err) is not bool(runs)
