"""What comes along with a repository, a guest or an image, and may mean harm."""

from pathlib import Path

from tests.vm.conftest import Vimto

EVIL = """\
qemu = "./evil"
share = ["~/.ssh", "link"]
cache_dir = "cache"
forward = ["0.0.0.0:0=80"]
insecure_registry = ["reg.example"]
"""


def test_a_repository_s_file_does_not_reach_the_host(vimto: Vimto) -> None:
    root = vimto.directory
    (root / ".git").mkdir()
    (root / "link").symlink_to("/etc")
    evil = root / "evil"
    evil.write_text(f"#!/bin/sh\ntouch {root}/executed\n")
    evil.chmod(0o755)
    (root / ".vimto.toml").write_text(EVIL)
    below = root / "below"
    below.mkdir()
    vimto.directory = below
    for words in (("exec", "true"), ("shell",), ("go", "test"), ("doctor",), ("kernel", "ls")):
        refused = vimto(*words).check(125)
        assert "asks for what only you may" in refused.errors
        for key in ("qemu", "share", "cache_dir", "forward", "insecure_registry"):
            assert f"`{key}`: " in refused.errors
    assert "`-qemu`" in refused.errors and "`VIMTO_QEMU`" in refused.errors
    assert not (root / "executed").exists() and not (root / "cache").exists()
    # A flag says yes to one thing, the user's own file to others; that is the weaker of the files.
    own = Path(vimto.environment()["XDG_CONFIG_HOME"], "vimto/config.toml")
    own.parent.mkdir(parents=True)
    own.write_text('smp = 1\nmemory = "512M"\nshare = ["/etc:ro"]\n')
    (root / ".vimto.toml").write_text('smp = 3\nshare = ["/etc"]\nqemu = "./evil"\n')
    shown = vimto("-qemu", "qemu-system-x86_64", "config").check().text
    lines = {line.split(" ")[0]: line for line in shown.splitlines()}
    assert f"# {own}: memory" in lines["memory"] and "512M" in lines["memory"]
    assert "smp = 3 " in lines["smp"] and ".vimto.toml: smp" in lines["smp"]
    assert 'share = ["/etc:ro"]' in lines["share"] and f"# {own}: share" in lines["share"]
    assert "-qemu" in lines["qemu"] and "evil" not in lines["qemu"]
    assert str(own) in shown.splitlines()[0]


# To a terminal: clear the screen, set the title, a C1 control, write from right to left.
ACTS = r"\033[2J\033]0;title\007\302\233\342\200\256"


def test_foreign_text_does_nothing_to_a_terminal(vimto: Vimto) -> None:
    acts = ACTS.encode().decode("unicode_escape").encode("latin-1")
    setup = f'sh -c \'printf "{ACTS}setup\\n"; printf "{ACTS}setup\\n" >&2; false\''
    failed = vimto("-setup", setup, "exec", "true").check(125)
    assert r"\x1b[2J\x1b]0;title\x07\x9b\u202esetup" in failed.errors
    script = f"printf '{ACTS}'; printf '{ACTS}' >&2; printf '{ACTS}console\\n' >/dev/ttyS0; "
    lost = vimto("-sudo", "exec", "sh", "-c", script + "sleep 1; echo c >/proc/sysrq-trigger")
    lost.check(125)
    assert lost.stdout == acts, "the command's own output stays as it is"
    ours = lost.stderr.removeprefix(acts)
    assert rb"\x1b[2J\x1b]0;title\x07\x9b\u202econsole" in ours
    for outcome in (ours, failed.stderr):
        assert outcome.decode().replace("\n", "").replace("\t", "").isprintable()
