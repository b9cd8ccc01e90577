"""What is configured is what runs, from every source, in machines."""

from pathlib import Path

from tests.vm.conftest import STABLE, Vimto

SHOW = "grep -c ^processor /proc/cpuinfo; awk '/MemTotal/ { print int($2 / 1024) }' /proc/meminfo"


def shape(text: str) -> tuple[int, int]:
    """Return processors and MiB, the latter rounded up to 128: the kernel keeps some."""
    processors, memory = map(int, text.split())
    return processors, -(-memory // 128) * 128


def test_file_variables_and_flags(vimto: Vimto) -> None:
    vimto.flags = ()
    (vimto.directory / "go.mod").write_text("module m\n")
    (vimto.directory / ".vimto.toml").write_text(
        f'kernel = "{STABLE}"\nsmp = "cpus=1"\nmemory = "size=512M"\n'
    )
    below = vimto.directory / "below"
    below.mkdir()
    vimto.directory = below
    assert shape(vimto.script(SHOW).check().text) == (1, 512)
    env = {"VIMTO_SMP": "3", "VIMTO_MEMORY": "640M"}
    assert shape(vimto.script(SHOW, env=env).check().text) == (3, 640)
    dashes = vimto("--smp=2", "-memory", "768", "exec", "sh", "-c", SHOW, env=env).check()
    assert shape(dashes.text) == (2, 768)
    shown = vimto("-smp", "2", "config", env=env).check().text
    lines = {line.split(" ")[0]: line for line in shown.splitlines()}
    assert "smp = 2" in lines["smp"] and "-smp" in lines["smp"]
    assert "$VIMTO_MEMORY" in lines["memory"]
    assert ".vimto.toml" in lines["kernel"]


def test_the_command_line_of_the_go_tool(vimto: Vimto, tmp_path: Path) -> None:
    # lmb/vimto's users write the kernel first, a `--`, then go; or a command.
    (vimto.directory / "go.mod").write_text("module m\n\ngo 1.21\n")
    (vimto.directory / "m_test.go").write_text(
        'package m\n\nimport "testing"\n\nfunc TestM(t *testing.T) {}\n'
    )
    (vimto.directory / ".vimto.toml").write_text(
        'user = "root"\nsmp = "cpus=2"\nmemory = "size=1G"\n'
        'setup = ["mount -t cgroup2 cgroup2 /sys/fs/cgroup", '
        '"/bin/sh -c \'modprobe bpf_testmod || true\'", "dmesg --clear"]\n'
        'teardown = ["dmesg"]\n'
    )
    for words in (("--", "go", "test", "-count=1", "-short", "./..."), ("go", "test", ".")):
        outcome = vimto(*words).check()
        assert outcome.text.startswith("ok  \tm\t")
    assert vimto("--", "exec", "id", "-u").check().text == "0\n"
    assert vimto("exec", "--", "id", "-u").check().text == "0\n"
    assert vimto("vm", "true").status == 125  # no command of that name
    _ = tmp_path


def test_the_accelerator_is_chosen_by_what_works(vimto: Vimto) -> None:
    outcome = vimto("-v", "exec", "true").check()
    hypervisor = "vmx" in Path("/proc/cpuinfo").read_text() and Path("/dev/kvm").exists()
    if not hypervisor:
        assert "vimto: emulating, which is ten times slower, for " in outcome.errors
        assert "-accel tcg,thread=" in outcome.errors
    assert "vimto: $ /usr/bin/setpriv" in outcome.errors or "qemu-system" in outcome.errors
