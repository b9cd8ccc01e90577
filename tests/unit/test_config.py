"""Four sources become one configuration, and each value remembers where it came from."""

import os
from pathlib import Path

import pytest

from vimto.config import find_config_file, find_repository, load_config
from vimto.errors import ConfigError
from vimto.kernel.reference import FileKernel, LayoutReference, parse_kernel
from vimto.plan.kernels import wanted_kernel
from vimto.settings import SETTINGS, parse_flags


@pytest.fixture
def repository(tmp_path: Path) -> Path:
    root = tmp_path / "repo"
    (root / ".git").mkdir(parents=True)
    (root / "pkg" / "sub").mkdir(parents=True)
    return root


def write(directory: Path, text: str) -> Path:
    path = directory / ".vimto.toml"
    path.write_text(text)
    return path


def flags_of(*words: str) -> dict[str, object]:
    flags, rest = parse_flags(words)
    assert not rest
    return dict(flags)


def test_defaults(repository: Path) -> None:
    config = load_config({}, {}, repository)
    for row in SETTINGS:
        if row.key != "cache_dir":
            assert getattr(config, row.key) == row.default
    assert set(config.origins.values()) == {"default"}
    assert config.cache_dir.name == "vimto"
    assert (config.memory, config.smp, config.snapshot) == (1024, 2, True)


def test_a_socket_in_a_file_is_relative_to_the_file(repository: Path) -> None:
    write(repository, 'forward = ["unix:s=80", "8080"]')
    config = load_config(flags_of("-forward", "unix:t=80"), {}, repository / "pkg")
    assert config.forward == (
        f"unix:{repository}/s=80",
        "8080",
        f"unix:{repository}/pkg/t=80",
    )


def test_the_go_tool_s_own_file(repository: Path) -> None:
    # As in cilium/ebpf's repository.
    path = write(
        repository,
        """
kernel="ghcr.io/cilium/ci-kernels:stable"
smp="cpus=2"
memory="1G"
user="root"
setup=[
    "mount -t cgroup2 -o nosuid,noexec,nodev cgroup2 /sys/fs/cgroup",
    "/bin/sh -c 'modprobe bpf_testmod || true'",
    "dmesg --clear",
]
teardown=[
    "dmesg --read-clear",
]
""",
    )
    config = load_config({}, {}, repository / "pkg")
    assert config.file == path
    assert (config.kernel, config.user) == ("ghcr.io/cilium/ci-kernels:stable", "root")
    assert (config.memory, config.smp) == (1024, 2)
    assert config.setup[1] == ("/bin/sh", "-c", "modprobe bpf_testmod || true")
    assert config.teardown == (("dmesg", "--read-clear"),)
    assert config.origins["setup"] == f"{path}: setup"


def test_the_strongest_source_wins(repository: Path) -> None:
    path = write(repository, 'memory = "512M"\nsmp = 1\nuser = "nobody"\naccel = "tcg"')
    environ = {"VIMTO_SMP": "3", "VIMTO_USER": "daemon", "VIMTO_ACCEL": "", "VIMTOX": "1"}
    config = load_config(flags_of("-user", "bin"), environ, repository)
    assert (config.memory, config.smp, config.user) == (512, 3, "bin")
    assert (config.accel, config.pull) == ("tcg", "missing")
    assert [config.origins[key] for key in ("memory", "smp", "user", "accel", "pull")] == [
        f"{path}: memory",
        "$VIMTO_SMP",
        "-user",
        f"{path}: accel",
        "default",
    ]


def test_lists_add_up_and_an_empty_item_drops_what_came_before(repository: Path) -> None:
    path = write(repository, 'sysctl = ["a=1"]\nsetup = ["one"]\nkernel_args = ["x"]')
    environ = {"VIMTO_SYSCTL": "b=2\n\nc=3\n", "VIMTO_SHARE": "/a\u2028b\n/c\x0cd"}
    flags = flags_of("-sysctl", "d=4", "-setup", "", "-setup", "two", "-kernel-args", "")
    config = load_config(flags, environ, repository)
    assert config.sysctl == ("a=1", "b=2", "c=3", "d=4")
    assert config.origins["sysctl"] == f"{path}: sysctl, $VIMTO_SYSCTL, -sysctl"
    assert (config.setup, config.origins["setup"]) == ((("two",),), "-setup")
    assert config.kernel_args == ()
    assert config.share == ("/a\u2028b", "/c\x0cd")  # ends of lines for `str.splitlines` alone


def test_paths_are_relative_to_where_they_are_written(repository: Path, config_home: Path) -> None:
    own = config_home / "vimto"
    own.mkdir()
    (own / "config.toml").write_text('qemu = "bin/qemu"\ncache_dir = "c"\nshare = ["/abs:ro"]')
    write(repository, 'share = ["data"]')
    cwd = repository / "pkg"
    config = load_config(flags_of("-share", "../x:ro"), {}, cwd)
    assert config.share == ("/abs:ro", f"{repository}/data", f"{repository}/x:ro")
    assert config.qemu == f"{own}/bin/qemu"
    assert config.cache_dir == own / "c"
    config = load_config({}, {"VIMTO_QEMU": "qemu-kvm", "VIMTO_CACHE_DIR": "~/v"}, cwd)
    assert config.qemu == "qemu-kvm"
    assert config.cache_dir == Path.home() / "v"


@pytest.mark.parametrize(
    ("kernel", "directory"),
    [
        ("./bzImage", "."),
        ("boot/bzImage", "boot"),
        ("oci:layout:tag", "."),
        ("oci-archive:pkg/only", "pkg"),
        ("./only", "pkg"),
        ("../outside", ".."),
    ],
)
def test_a_kernel_of_the_command_line_is_looked_for_upward(
    repository: Path, kernel: str, directory: str
) -> None:
    for name in ("bzImage", "boot/bzImage", "layout", "pkg/only", "../outside", "../missing"):
        (repository / name).parent.mkdir(exist_ok=True)
        (repository / name).touch()
    for config in (
        load_config(flags_of("-kernel", kernel), {}, repository / "pkg/sub"),
        load_config({}, {"VIMTO_KERNEL": kernel}, repository / "pkg/sub"),
    ):
        found = parse_kernel(kernel, directories=config.kernel_directories)
        assert isinstance(found, FileKernel | LayoutReference)
        assert os.path.normpath(found.path.parent) == os.path.normpath(repository / directory)
        names = [path.name for path in config.kernel_directories]
        assert names == ["sub", "pkg", repository.name]


def test_a_kernel_in_the_file_is_relative_to_the_file(repository: Path) -> None:
    write(repository, 'kernel = "./bzImage"')
    (repository / "pkg/bzImage").touch()
    assert load_config({}, {}, repository / "pkg").kernel_directories == (repository,)


def test_a_tag_of_a_layout_that_the_file_names(repository: Path) -> None:
    write(repository, 'kernel = "oci:layout:1"')
    (repository / "layout").mkdir()
    (repository / "pkg/sub/layout").mkdir()  # not the file's
    config = load_config(flags_of("-kernel", ":2"), {}, repository / "pkg/sub")
    assert wanted_kernel(config) == LayoutReference("oci", repository / "layout", "2")


def test_the_kernel_whose_tag_is_replaced(repository: Path) -> None:
    write(repository, 'kernel = "a.b/c:1"')
    config = load_config(flags_of("-kernel", ":3"), {"VIMTO_KERNEL": ":2"}, repository)
    assert (config.kernel, config.configured_kernel) == (":3", "a.b/c:1")
    config = load_config(flags_of("-kernel", ":3"), {"VIMTO_KERNEL": "x.y/z"}, repository)
    assert config.configured_kernel == "x.y/z"
    assert load_config(flags_of("-kernel", "./f"), {}, repository / "..").configured_kernel == ""


@pytest.mark.parametrize(
    ("file", "flags", "user", "sudo"),
    [
        ('user = "nobody"', ["-sudo"], "root", True),
        ("sudo = true", ["-user", "nobody"], "nobody", False),
        ("sudo = true", ["-sudo=false", "-user", "nobody"], "nobody", False),
        ('sudo = true\nuser = "root"', [], "root", True),
        ("sudo = true", [], "", True),
        ('user = "root"', ["-user", ""], "", False),
    ],
)
def test_the_stronger_of_user_and_sudo(
    repository: Path, file: str, flags: list[str], user: str, sudo: bool
) -> None:
    write(repository, file)
    config = load_config(flags_of(*flags), {}, repository)
    assert (config.user, config.sudo) == (user, sudo)


def test_user_and_sudo_of_one_source_must_agree(repository: Path) -> None:
    write(repository, 'sudo = true\nuser = "nobody"')
    with pytest.raises(ConfigError, match="contradict"):
        load_config({}, {}, repository)


def test_unknown_keys_are_listed_all_with_their_lines(repository: Path) -> None:
    write(repository, '# kernal\nkernal = "x"\nmemory = "1G"\n\n[setups]\na = 1\n"zz" = 1\nzq.b=1')
    with pytest.raises(ConfigError) as caught:
        load_config({}, {}, repository)
    assert "2 unknown keys" in caught.value.message
    assert caught.value.lines == (
        ".vimto.toml:2: `kernal`; did you mean `kernel`?",
        ".vimto.toml:5: `setups`; did you mean `setup`?",
    )


def test_bad_values_are_listed_all_with_their_lines(repository: Path) -> None:
    write(repository, 'memory = "huge"\nsetup = "a b"\nsmp = 0\nteardown = [1]')
    with pytest.raises(ConfigError) as caught:
        load_config({}, {}, repository)
    assert caught.value.lines == (
        ".vimto.toml:1: `memory`: `huge` is not a size such as `512M` or `4G`",
        '.vimto.toml:2: `setup`: `a b` is not a list, as in `setup = ["mount -t tmpfs none /mnt"]`',
        ".vimto.toml:3: `smp`: `0` is not a number of CPUs from 1 to 255, as in `2` or `cpus=2`",
        ".vimto.toml:4: `teardown`: an item is not a string",
    )
    write(repository, "smp = true\ntimeout = 2026-01-02\nuser = {}")
    with pytest.raises(ConfigError) as caught:
        load_config({}, {}, repository)
    assert [line.split(": ")[2].split(" is ")[0] for line in caught.value.lines] == [
        "`true`",
        "the value",
        "the value",
    ]


@pytest.mark.parametrize(
    ("data", "words"),
    [
        (b"memory = \n", "line 1"),
        (b"a = 1\nmemory = 1G\n", "line 2"),
        (b"smp = 1\nuser = '\xff'\n", "line 2 is not UTF-8"),
        (b"smp = 1\nsmp = 2\n", "line 2"),
    ],
)
def test_what_is_not_toml(repository: Path, data: bytes, words: str) -> None:
    (repository / ".vimto.toml").write_bytes(data)
    with pytest.raises(ConfigError, match=words) as caught:
        load_config({}, {}, repository)
    assert ".vimto.toml` is not TOML" in caught.value.message


@pytest.mark.parametrize(
    ("data", "words"), [(b"[" * 5000, "nested too deeply"), (b"1" * 5000, "4300 digits")]
)
def test_what_toml_allows_and_python_does_not(repository: Path, data: bytes, words: str) -> None:
    (repository / ".vimto.toml").write_bytes(b"smp = " + data)
    with pytest.raises(ConfigError, match=rf"cannot be read: .*{words}"):
        load_config({}, {}, repository)


def test_a_file_that_cannot_be_read_is_an_error(repository: Path) -> None:
    (repository / ".vimto.toml").mkdir()
    with pytest.raises(ConfigError, match="cannot be read"):
        load_config({}, {}, repository)
    (repository / ".vimto.toml").rmdir()
    (repository / ".vimto.toml").symlink_to("nowhere")
    with pytest.raises(ConfigError, match="cannot be read"):
        load_config({}, {}, repository)


def test_a_bad_variable_is_named(repository: Path) -> None:
    with pytest.raises(ConfigError, match=r"\$VIMTO_SMP: `many` is not a number of CPUs"):
        load_config({}, {"VIMTO_SMP": "many"}, repository)


def test_a_variable_that_is_not_a_setting_is_mentioned(
    repository: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    load_config({}, {"VIMTO_KERNAL": "x", "VIMTO_NOPE": "y", "VIMTO_EMPTY": ""}, repository)
    assert capfd.readouterr().err.splitlines() == [
        "warning: the variable `VIMTO_KERNAL` is not one of vimto's settings; "
        "did you mean `VIMTO_KERNEL`?",
        "warning: the variable `VIMTO_NOPE` is not one of vimto's settings; "
        "`vimto config` lists all there are",
    ]


@pytest.mark.parametrize(
    ("key", "text", "placed"),
    [
        ("vmlinux", "../x", "/srv/x"),
        ("vmlinux", "", ""),
        ("vmlinux", "~/x", "/home/me/x"),
        ("qemu", "qemu-kvm", "qemu-kvm"),
        ("qemu", "./qemu", "/srv/d/qemu"),
        ("share", ["a", "b:ro", "~:ro", ""], ("/srv/d/a", "/srv/d/b:ro", "/home/me:ro", "")),
        ("forward", ["unix:x=80", "80", ""], ("unix:/srv/d/x=80", "80", "")),
        ("setup", ["./a ./b"], (("./a", "./b"),)),
        ("kernel", "./x", "./x"),
    ],
)
def test_values_are_placed_where_they_were_written(
    monkeypatch: pytest.MonkeyPatch, key: str, text: object, placed: object
) -> None:
    monkeypatch.setenv("HOME", "/home/me")
    kind = next(row.kind for row in SETTINGS if row.key == key)
    assert kind.placed(kind.parse(text), "/srv/d") == placed


def test_the_working_directory_s_file_wins(repository: Path) -> None:
    outer = write(repository, "smp = 1")
    assert find_config_file(f"{repository}/pkg/sub") == str(outer)
    write(repository / "pkg", "smp = 2")
    assert find_config_file(f"{repository}/pkg/sub") == str(outer)
    inner = write(repository / "pkg/sub", "smp = 3")
    assert find_config_file(f"{repository}/pkg/sub") == str(inner)


def test_find_repository(repository: Path) -> None:
    sub = repository / "pkg/sub"
    assert find_repository(str(sub)) == str(repository)
    (repository / "pkg/go.mod").touch()
    assert find_repository(str(sub)) == str(repository)
    (repository / ".git").rmdir()
    assert find_repository(str(sub)) == str(repository / "pkg")
    (sub / ".git").write_text("gitdir: elsewhere")
    assert find_repository(str(sub)) == str(sub)


def test_what_users_of_the_go_tool_have_set(
    repository: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    write(repository, 'kernel = "ghcr.io/cilium/ci-kernels:stable"')
    slow = load_config({}, {"VIMTO_DISABLE_KVM": "true"}, repository)
    assert (slow.accel, slow.origins["accel"]) == ("tcg", "$VIMTO_DISABLE_KVM")
    for variables in (
        {"VIMTO_DISABLE_KVM": "false"},
        {"VIMTO_DISABLE_KVM": ""},
        {"VIMTO_DISABLE_KVM": "true", "VIMTO_ACCEL": "auto"},
    ):
        assert load_config({}, variables, repository).accel == "auto"
    with pytest.raises(ConfigError, match=r"\$VIMTO_DISABLE_KVM: `maybe` is neither"):
        load_config({}, {"VIMTO_DISABLE_KVM": "maybe"}, repository)
    # CI's own variable, beside a flag for vimto: it is the file's image that has the tag.
    config = load_config(flags_of("-kernel", ":6.12"), {"VIMTO_KERNEL": "6.12"}, repository)
    assert (config.kernel, config.configured_kernel) == (
        ":6.12",
        "ghcr.io/cilium/ci-kernels:stable",
    )
    load_config({}, {"VIMTO_VM_MEMORY": "1G"}, repository)
    assert capfd.readouterr().err.count("VIMTO_VM_MEMORY") == 1


def test_of_two_flags_a_later_tag_changes_the_earlier(repository: Path) -> None:
    write(repository, 'kernel = "ghcr.io/cilium/ci-kernels:stable"')
    for words, kernel, configured in (
        (["a.b/c:1", ":2"], ":2", "a.b/c:1"),
        (["a.b/c:1", ":2", ":3"], ":3", "a.b/c:1"),
        ([":1", ":2"], ":2", "ghcr.io/cilium/ci-kernels:stable"),
        ([":1", "host"], "host", "ghcr.io/cilium/ci-kernels:stable"),
    ):
        flags = flags_of(*(word for name in words for word in ("-kernel", name)))
        config = load_config(flags, {}, repository)
        assert (config.kernel, config.configured_kernel) == (kernel, configured)
