"""The table of settings: one row feeds the file, the flags, the environment and the reference."""

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

from vimto import trust, values, verbatim
from vimto.addresses import FORWARDS
from vimto.disks import DISKS
from vimto.errors import UsageError
from vimto.trust import Trust
from vimto.values import GIB, Flag, Kind


class Setting(NamedTuple):
    """One row: `key` names it in the file and in `Config`; flag and variable follow from it.

    `metavar` stands for the value in help, where the flag takes one. `trust` says which values a
    repository's file may have.
    """

    key: str
    kind: Kind
    default: Any
    help: str
    trust: Trust
    metavar: str = ""
    shown_default: str = ""
    flag: str = ""

    @property
    def flags(self) -> tuple[str, ...]:
        """The names of the flag, without dashes, the preferred one first."""
        long = self.key.replace("_", "-")
        return (self.flag, long) if self.flag else (long,)

    @property
    def variable(self) -> str:
        """The name of the environment variable."""
        return f"VIMTO_{self.key.upper()}"

    @property
    def is_switch(self) -> bool:
        """Whether the flag takes no separate value."""
        return self.kind.flag is not Flag.TAKES_VALUE


SETTINGS: tuple[Setting, ...] = (
    Setting(
        key="kernel",
        metavar="KERNEL",
        kind=values.TEXT,
        default="",
        shown_default="`host`, then the distribution's package",
        help="the kernel to boot: a file, a directory, an image `registry/name:tag`, `:tag` (the "
        "configured image with another tag), `oci:DIR`, `apt:PACKAGE` or `host`",
        trust=trust.full("it runs in the machine, and is only read"),
    ),
    Setting(
        key="memory",
        metavar="SIZE",
        kind=values.MEMORY,
        default=1024,
        help="memory of the machine: `1G`, `1024M`, `size=1G`, or a number of MiB; 128M is the "
        "least",
        trust=trust.full("the machine takes what it uses, and ends with the run"),
    ),
    Setting(
        key="smp",
        metavar="N",
        kind=values.PROCESSORS,
        default=2,
        help="number of CPUs: `2` or `cpus=2`, with QEMU's topology (`cores=2`) or without",
        trust=trust.full("it shapes the machine alone"),
    ),
    Setting(
        key="cpu",
        metavar="MODEL[,FLAG…]",
        kind=verbatim.CPU,
        default="max",
        help="model of the CPUs, as QEMU's `-cpu`: `max` has all that the accelerator can offer",
        trust=trust.full("it shapes the machine alone"),
    ),
    Setting(
        key="user",
        metavar="USER",
        kind=values.USER,
        default="",
        shown_default="the current user",
        help="user, by name or number, that the command runs as",
        trust=trust.full(
            "it is a user of the machine; on the host all is done by whoever runs vimto"
        ),
    ),
    Setting(
        key="sudo",
        kind=values.SWITCH,
        default=False,
        help='run the command as root; the same as `user = "root"`',
        trust=trust.full(
            "it is root of the machine; on the host all is done by whoever runs vimto"
        ),
    ),
    Setting(
        key="setup",
        metavar="COMMAND",
        kind=values.COMMANDS,
        default=(),
        help="command to run as root before the test, in the same directory; arguments are split "
        "as a shell does, nothing is expanded",
        trust=trust.full("it runs in the machine, as the tests do"),
    ),
    Setting(
        key="teardown",
        metavar="COMMAND",
        kind=values.COMMANDS,
        default=(),
        help="command to run as root after the test, whatever its result; if it fails, so does a "
        "run whose test succeeded",
        trust=trust.full("it runs in the machine, as the tests do"),
    ),
    Setting(
        key="share",
        metavar="DIR[:ro]",
        kind=values.SHARES,
        default=(),
        help="another directory of the host that the guest may write to (or, with `:ro`, read "
        "live), at the same path",
        trust=trust.directories(),
    ),
    Setting(
        key="disk",
        metavar="SIZE|FILE[:ro|:rw]",
        kind=DISKS,
        default=(),
        help="another disk of the machine, `/dev/vda`, `/dev/vdb` and so on: an empty one (`1G`), "
        "or a raw or qcow2 image, whose writes go with the machine; with `:ro` nothing is written,"
        " with `:rw` the image itself",
        trust=trust.images(),
    ),
    Setting(
        key="kernel_args",
        metavar="ARGS",
        kind=values.TEXTS,
        default=(),
        help="more arguments for the kernel's command line",
        trust=trust.full("they are the machine's kernel's"),
    ),
    Setting(
        key="sysctl",
        metavar="NAME=VALUE",
        kind=values.TEXTS,
        default=(),
        help="kernel parameter to set before the test, as sysctl(8) takes it",
        trust=trust.full("it sets the machine's kernel's parameters"),
    ),
    Setting(
        key="accel",
        metavar="NAME",
        kind=values.choice("auto", "kvm", "tcg"),
        default="auto",
        help="`kvm` (hardware virtualisation), `tcg` (emulation), or `auto`: KVM where it works",
        trust=trust.full("either keeps the machine apart from the host, as without a word"),
    ),
    Setting(
        key="qemu",
        metavar="PROGRAM",
        kind=values.PROGRAM,
        default="",
        shown_default="`qemu-system-…` on `PATH`",
        help="the QEMU to run: a name on `PATH`, or a path",
        trust=trust.none("it is a program that runs on the host"),
    ),
    Setting(
        key="device",
        metavar="ARGS",
        kind=verbatim.DEVICES,
        default=(),
        help="another device of the machine, as QEMU's `-device`",
        trust=trust.none("QEMU has devices that reach what is the host's"),
    ),
    Setting(
        key="nic",
        metavar="ARGS",
        kind=verbatim.CARDS,
        default=(),
        help="another network card, as QEMU's `-nic`: `tap,ifname=tap0`, "
        "`socket,connect=127.0.0.1:1234`; `virtio-net-pci` unless `model=` names another",
        trust=trust.none("what is behind it is the host's: its network, sockets and programs"),
    ),
    Setting(
        key="qemu_args",
        metavar="ARGS",
        kind=verbatim.QEMU_ARGS,
        default=(),
        help="more arguments for QEMU; split as a shell does, nothing is expanded",
        trust=trust.none("QEMU can be told to reach whatever is the host's"),
    ),
    Setting(
        key="boot_timeout",
        metavar="TIME",
        kind=values.DURATION,
        default=0.0,
        shown_default="automatic, longer under emulation",
        help="how long a machine may take until it answers, of time that the host lets it run;"
        " 0 chooses by the accelerator",
        trust=trust.full("a run ends sooner or later, and by Ctrl-C at any time"),
    ),
    Setting(
        key="timeout",
        metavar="TIME",
        kind=values.DURATION,
        default=0.0,
        shown_default="none",
        help="how long a command may run in its machine; 0 means no limit (go has its own, "
        "`go test -timeout`)",
        trust=trust.full("a run ends sooner or later, and by Ctrl-C at any time"),
    ),
    Setting(
        key="stop_timeout",
        metavar="TIME",
        kind=values.DURATION,
        default=10.0,
        help="how long after a signal to end (INT, TERM, QUIT; HUP: 2 s at most) the guest program "
        "may be silent, or a process of the command stay in uninterruptible sleep, before the "
        "machine is ended; 0 means no limit",
        trust=trust.full("the third signal ends any machine, at once"),
    ),
    Setting(
        key="snapshot",
        kind=values.SWITCH,
        default=True,
        help="boot once, save the machine, and start all later ones from that snapshot",
        trust=trust.full("only the time that a run takes changes"),
    ),
    Setting(
        key="cache_limit",
        metavar="SIZE",
        kind=values.BYTES,
        default=20 * GIB,
        help="disk that all of the cache may take; the longest unused entries are removed",
        trust=trust.none("it is disk of the host, and a low one removes others' kernels"),
    ),
    Setting(
        key="snapshot_limit",
        metavar="SIZE",
        kind=values.BYTES,
        default=4 * GIB,
        help="disk that snapshots may take of it; the longest unused are removed",
        trust=trust.none("it is disk of the host, and a low one removes others' snapshots"),
    ),
    Setting(
        key="link_cache",
        kind=values.SWITCH,
        default=True,
        help="keep what go links without an external linker, and copy it where nothing has changed",
        trust=trust.full("only the time that a run takes changes"),
    ),
    Setting(
        key="link_limit",
        metavar="SIZE",
        kind=values.BYTES,
        default=2 * GIB,
        help="disk that kept links may take of the cache; the longest unused are removed",
        trust=trust.none("it is disk of the host, and a low one removes others' links"),
    ),
    Setting(
        key="pull",
        metavar="WHEN",
        kind=values.choice("missing", "always", "never"),
        default="missing",
        help="when to ask the registry: if the image is `missing` or its tag stale, `always`, or "
        "`never`",
        trust=trust.full("the registry is that of the kernel, which the file may name"),
    ),
    Setting(
        key="pull_fresh",
        metavar="TIME",
        kind=values.DURATION,
        default=86400.0,
        help="how long what a tag resolved to is believed before the registry is asked again",
        trust=trust.full("the registry is that of the kernel, which the file may name"),
    ),
    Setting(
        key="image_limit",
        metavar="SIZE",
        kind=values.BYTES,
        default=16 * GIB,
        help="the largest image, unpacked, that is accepted",
        trust=trust.none("it is what bounds the disk that a hostile image fills"),
    ),
    Setting(
        key="insecure_registry",
        metavar="HOST",
        kind=values.TEXTS,
        default=(),
        help="registry that may be asked over plain http; loopback addresses always may",
        trust=trust.none("whoever is on the way could change the image and read the credentials"),
    ),
    Setting(
        key="net",
        metavar="KIND",
        kind=values.choice("none", "user"),
        default="none",
        help="network of the guest: `none` but loopback, or `user`: outgoing connections and DNS "
        "through QEMU",
        trust=trust.full("`go test` has the network too; `-net none` takes it away"),
    ),
    Setting(
        key="forward",
        metavar="FROM=TO",
        kind=FORWARDS,
        default=(),
        help="forward connections from the host into the guest, for `exec`, `shell`, `dlv` and "
        "`gdb-kernel`: `HOST:PORT=GUEST:PORT`; without a host it is 127.0.0.1, port 0 is a free "
        "one; either side may be the path of a unix socket",
        trust=trust.listeners(),
    ),
    Setting(
        key="gdb",
        kind=values.SWITCH,
        default=False,
        help="for `exec`: wait, before the command starts, for a gdb to attach to the kernel, and "
        "print how (`vimto gdb-kernel` starts one itself)",
        trust=trust.full("gdb is started by the user, at a socket that nobody else may use"),
    ),
    Setting(
        key="vmlinux",
        metavar="FILE",
        kind=values.PATH,
        default="",
        shown_default="the one that came with the kernel",
        help="for `gdb-kernel` and `-gdb`: the kernel's ELF file with debug information",
        trust=trust.none("gdb runs the scripts that lie beside it"),
    ),
    Setting(
        key="cache_dir",
        metavar="DIR",
        kind=values.PATH,
        default="",
        shown_default="`$XDG_CACHE_HOME/vimto`, `~/.cache/vimto`",
        help="where kernels, images, snapshots and the guest program are kept",
        trust=trust.none(
            "it is written to outside of the repository, and what it holds is executed"
        ),
    ),
    Setting(
        key="verbose",
        kind=values.COUNT,
        default=0,
        flag="v",
        help="print each command before it runs; twice, the guest's console and tracebacks too",
        trust=trust.full("it prints more"),
    ),
)

# Arguments that look like flags but ask for something else than a setting; `cli` answers them.
_QUESTIONS = ("-h", "-help", "-?", "-version")

Flags = Mapping[str, Any]

# Beside the keys of settings: the kernel that an earlier flag named, whose tag the last changes.
EARLIER_KERNEL = "earlier kernel"


def parse_flags(
    argv: Sequence[str], given: Flags | None = None, others: Sequence[str] = ()
) -> tuple[Flags, list[str]]:
    """Take the flags at the start of `argv`; return them by key, and the arguments after them.

    Go's rules: one dash or two, `-flag value` or `-flag=value`, switches without a value or as
    `-flag=false` (also `-no-flag`). Parsing ends at the first argument that is not a flag, at `--`,
    which is dropped, and at a request for help or the version, which is not. `given` are flags
    from earlier on the command line, which these continue; `others` are flags of somebody else's,
    at which parsing ends as well. Raises `UsageError`.
    """
    found = dict(given or {})
    words = list(argv)
    while words:
        word = words[0]
        if word == "--":
            return found, words[1:]
        dashed = word[1:] if word.startswith("--") else word
        if not dashed.startswith("-") or dashed == "-" or dashed in (*_QUESTIONS, *others):
            return found, words
        name, equals, text = dashed[1:].partition("=")
        if len(name) > 1 and not name.strip("v") and not equals:  # -vv
            name, equals, text = "v", "=", str(len(name))
        row, negated = _find_row(name)
        if row is None:
            raise UsageError(f"unknown flag `{word.partition('=')[0]}`", hint=_flag_hint(name))
        del words[0]
        if not equals and not row.is_switch:
            if not words:
                raise UsageError(f"the flag `{word}` needs a value: `{word} {row.metavar}`")
            text = words.pop(0)
        elif not equals:
            text = "true"
        value = _add(row, found.get(row.key), word, text, negated)
        if row.key == "kernel" and str(value).startswith(":") and row.key in found:
            found.setdefault(EARLIER_KERNEL, found[row.key])
        elif row.key == "kernel":
            found.pop(EARLIER_KERNEL, None)
        found[row.key] = value
    return found, []


def _find_row(name: str) -> tuple[Setting | None, bool]:
    for row in SETTINGS:
        if name in row.flags:
            return row, False
        if row.kind.flag is Flag.SWITCHES and name == f"no-{row.flags[0]}":
            return row, True
    return None, False


def _flag_hint(name: str) -> str:
    near = near_misses(name, [flag for row in SETTINGS for flag in row.flags])
    if near:
        return f"did you mean `-{near[0]}`?"
    return "vimto's own flags stand before the command; `vimto help` lists them"


def _add(row: Setting, before: Any, word: str, text: str, negated: bool) -> Any:
    flag = word.partition("=")[0]
    try:
        value = row.kind.parse(text)
    except ValueError as exc:
        raise UsageError(f"`{flag}`: `{text}` {exc}") from None
    if row.kind.many:
        return (before or ()) + value
    if row.kind.flag is Flag.COUNTS and text == "true":  # -v -v
        return (before or 0) + 1
    return not value if negated else value


def near_misses(name: str, known: Sequence[str]) -> list[str]:
    """Return those of `known` that `name` may be a misspelling of, the likeliest first."""
    import difflib  # only somebody who erred waits for it

    return difflib.get_close_matches(name.lower(), known, n=1)
