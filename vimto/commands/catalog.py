"""The table of commands: one row feeds dispatch, usage, help, completions and the manual page."""

from typing import NamedTuple

from vimto.errors import UsageError
from vimto.settings import near_misses

HELP_FLAGS = ("-h", "-help", "--help")


class Command(NamedTuple):
    """One row: what is typed, what it does, and where that is written.

    `name` may have two words; its first part is then a row as well. `run` is `module:function`,
    called with the configuration and the arguments after the name, which returns the status (None:
    0); "" for a row that is for help alone, or that only groups those below it. With `named` the
    function gets the name, too; without `configured` those alone, and no configuration is read.
    With `flags_follow` vimto's own flags may stand after the name. `flags` are the command's own,
    with what each does. `completes` is what follows: `files`, `commands` (programs), or nothing. An
    `alias` is listed nowhere, a `topic` is for `vimto help` alone.
    """

    name: str
    arguments: str
    summary: str
    text: str = ""
    run: str = ""
    named: bool = False
    configured: bool = True
    flags_follow: bool = False
    flags: tuple[tuple[str, str], ...] = ()
    completes: str = ""
    alias: bool = False
    topic: bool = False

    @property
    def usage(self) -> str:
        """The first line of the help."""
        return f"usage: vimto [flags] {self.name} {self.arguments}".rstrip()


_GO_TEXT = (
    "All flags and arguments after `go` are go's own: build flags, packages, `-run`, `-race`, "
    "`-json`, coverage, profiles. vimto's stand before `go`. Other go commands (`go vet`) pass "
    "through. go's own help: `go help test`."
)

# A row's words stand together, not one a line.
COMMANDS: tuple[Command, ...] = (
    Command(
        "go", "test|run …", "go's own commands, each program in a machine of its own", _GO_TEXT,
        run="vimto.commands.go:run_go", named=True, completes="files",
    ),
    Command(
        "go test", "[build/test flags] [packages] [test flags]",
        "go's own `test`, each test binary in a machine of its own", _GO_TEXT, completes="files",
    ),
    Command(
        "go run", "[build flags] package [arguments]", "go's own `run`, likewise", _GO_TEXT,
        completes="files",
    ),
    Command(
        "exec", "[--] command [arguments]", "a command in a machine",
        "It has the same directory, user and environment. What it writes below the repository and "
        "the working directory stays, all else is gone with the machine. On a terminal, Enter and "
        "`~.` end it whatever happens in it, as in ssh.",
        run="vimto.commands.exec:run_exec", flags_follow=True, completes="commands",
    ),
    Command(
        "shell", "[arguments]", "your shell in a machine, in this directory",
        "It is $SHELL, or else the one that the user database has, and gets the arguments.",
        run="vimto.commands.shell:run_shell",
    ),
    Command(
        "dlv", "test|exec|debug|trace|dap|… [flags]",
        "Delve's own commands, with the program and Delve in a machine",
        "Programs are built here, debugged there. A server (`dap`, `--headless`) listens here. "
        "Delve's own help: `vimto dlv help`.",
        run="vimto.commands.dlv:run_dlv", completes="files",
    ),
    Command(
        "gdb-kernel", "[own flags] [packages] [test flags] [-- gdb's arguments]",
        "a test, or `exec command`, in a machine whose kernel gdb holds",
        "Starts each package's test in a machine and gdb on its kernel, stopped just before the "
        "test. `gdb-kernel exec command…` does so with a command.",
        run="vimto.commands.gdb:run_gdb", completes="files",
        flags=(
            ("-break PLACE", "breakpoint at `SYMBOL` or `FILE:LINE`; may be repeated"),
            ("-from-boot", "stop before the first instruction instead"),
            ("-go-symbols", "build the test for debugging, and load its symbols too"),
            ("-batch FILE", "run gdb's script FILE and end"),
            ("-fetch-debug", "download the distribution's debug information of the kernel"),
            ("-vmlinux FILE", "the kernel's ELF file with debug information"),
            ("-listen HOST:PORT", "start no gdb, wait for one; port 0 is a free one"),
        ),
    ),
    Command(
        "kernel", "pull|ls|info|lock|rm|prune …", "pull, list, describe, lock and remove kernels",
        "Without IMAGE or KERNEL, the configured one is meant. What a running machine uses is "
        "never removed.",
    ),
    Command(
        "kernel pull", "[IMAGE…]", "fetch images, or look for newer ones of their tags",
        run="vimto.commands.kernel:pull_images",
    ),
    Command(
        "kernel ls", "[-remote [REPOSITORY]] [-match PATTERN] [-json]",
        "list what is in the cache, of all kinds, or what a registry has",
        "With `-remote` it lists the tags of a repository, of the configured image's without "
        "REPOSITORY, by version: what each is to download for this host, and its platforms.",
        run="vimto.commands.listing:show_list",
        flags=(
            ("-remote", "list the tags of a registry's repository"),
            ("-match PATTERN", "only names that fit, as in `6.*`"),
            ("-json", "print JSON"),
        ),
    ),
    Command(
        "kernel list", "", "the same as `kernel ls`",
        run="vimto.commands.listing:show_list", alias=True,
    ),
    Command(
        "kernel info", "[KERNEL]", "describe a kernel: version, drivers, debug symbols",
        run="vimto.commands.kernel:show_info",
    ),
    Command(
        "kernel lock", "[-update]", "write down exactly which kernel .vimto.toml names",
        "Writes `.vimto.lock` beside .vimto.toml: the digest of the image that a tag means now, or "
        "versions and checksums of a package. From then on that one is taken, on each host, and no "
        "registry is asked what the tag means; `-kernel` and `-pull always` go past it. Adds what "
        "is missing, removes what .vimto.toml does not name any more. Nothing else writes it.",
        run="vimto.commands.lock:lock_kernels",
        flags=(("-update", "look up anew what is locked already"),),
    ),
    Command(
        "kernel rm", "NAME…", "remove what `ls` lists, by name or start of a digest",
        run="vimto.commands.kernel:remove_items",
    ),
    Command(
        "kernel prune", "[-all]", "remove what was not used for 30 days, or everything",
        run="vimto.commands.kernel:prune",
        flags=(("-all", "remove all that is not in use"),),
    ),
    Command(
        "flush-cache", "", "the same as `kernel prune -all`",
        run="vimto.commands.kernel:flush_cache", alias=True,
    ),
    Command(
        "config", "[-json | -markdown]", "every setting, its value, and where it came from",
        "Prints every setting as it would be written in .vimto.toml; where a value is chosen when "
        "vimto runs, the one in use stands beside it.",
        run="vimto.commands.config:run", flags_follow=True,
        flags=(
            ("-json", "an object by setting"),
            ("-markdown", "the reference of all settings"),
        ),
    ),
    Command(
        "doctor", "[-json]", "whether it will work here: what this host and the kernel lack",
        "Checks what a run needs of this host and of the kernel (`vimto doctor -kernel X`), boots "
        "and restores one machine, and says how to get what is missing. The status is 0 if runs "
        "succeed, if slower or without something that only some need (`weak`), and 1 if something "
        "is missing that every run needs.",
        run="vimto.commands.doctor:run", flags_follow=True,
        flags=(("-json", "an object with all findings"),),
    ),
    Command(
        "setup-ci", "[-apply] [KERNEL…]",
        "make a CI runner fit, and say what the CI's cache should keep",
        "Looks for QEMU and for a KVM that works, and prints the commands that would provide them; "
        "with `-apply` it runs them. Then `name=value` lines on stdout tell the key of the CI's "
        "cache, its `restore-keys` and every `path` in it, for these kernels or the configured "
        "one; $GITHUB_OUTPUT gets them as well. Names are looked up, nothing is fetched. The "
        "status is 0 on a runner that is fit, also if it emulates; 1 without a QEMU that runs; 125 "
        "for any other failure.",
        run="vimto.commands.setup_ci:run", flags_follow=True,
        flags=(("-apply", "run the commands, with sudo unless as root"),),
    ),
    Command(
        "completion", "bash|zsh|fish", "what makes a shell complete vimto's command line",
        "As in `vimto completion bash >~/.local/share/bash-completion/completions/vimto`. Where "
        "vimto was installed for the whole system, its shells have it already.",
        run="vimto.commands.manual:print_completion", configured=False,
    ),
    Command(
        "manual", "", "the manual page, for man(1)", "As in `vimto manual | man -l -`.",
        run="vimto.commands.manual:print_manual", configured=False,
    ),
    Command(
        "version", "", "the version of vimto, and the commit it was built from",
        run="vimto.commands.manual:print_version", configured=False,
    ),
    Command(
        "help", "[command]", "this text, or that of one command",
        run="vimto.commands.manual:print_help", configured=False,
    ),
    Command(
        "kernels", "", "how a kernel is named, for `-kernel` and `kernel` in .vimto.toml",
        "`/path/bzImage`, `./vmlinux`, `~/linux`: a file, or a directory with a kernel in it; "
        "`host`: the running kernel, or the newest installed; `apt:PACKAGE`, `apt:PACKAGE/SUITE`, "
        "`apt:PACKAGE=VERSION`: the distribution's package; `registry/name:tag@digest`: an image "
        "in a registry; `:tag`: that tag of the configured image; `oci:DIR:tag`, "
        "`oci-archive:FILE:tag`, `docker-archive:FILE:name:tag`: an image on disk.",
        topic=True,
    ),
)  # fmt: skip

_HEAD = """\
usage: vimto [flags] command

Runs Go tests in an ephemeral virtual machine, under a Linux kernel of your choice.

commands:
"""
_TAIL = """
As `go test -exec vimto` it runs the test binary it is given. `vimto help COMMAND` says more.

flags:
"""
# Of go, for somebody who left the word out.
_GO_VERBS = ("test", "run", "build", "vet", "generate", "install", "mod")


# What `vimto` alone is: the group of all.
VIMTO = Command("", "", "")


def find_command(words: list[str], *, runs: bool = False) -> Command | None:
    """Return the row that `words` begin with, the longest one.

    With `runs` it is one that can be run, or a group.
    """
    for count in (2, 1):
        name = " ".join(words[:count])
        for row in COMMANDS:
            if row.name == name and len(words) >= count and (not runs or row.run or is_group(row)):
                return row
    return None


def is_group(row: Command) -> bool:
    """Say whether `row` does nothing but group the rows below it."""
    return not row.run and bool(children(row.name))


def own_flags(row: Command) -> tuple[str, ...]:
    """Return the names of the command's own flags, with one dash."""
    return tuple(flag.split()[0] for flag, _ in row.flags)


def children(name: str, *, aliases: bool = False) -> list[Command]:
    """Return the rows of one word below `name`; of the first level where that is empty."""
    depth = name.count(" ") + 1 if name else 0
    return [
        row
        for row in COMMANDS
        if row.name.count(" ") == depth
        and row.name.startswith(f"{name} " if name else "")
        and not row.topic
        and (aliases or not row.alias)
    ]


def unknown_command(words: list[str]) -> UsageError:
    """Return the error for `words` that name no command, nor does its group have one."""
    *group, word = words
    near = near_misses(word, [row.name.rpartition(" ")[2] for row in children(" ".join(group))])
    if not group and word in _GO_VERBS:
        hint = f"did you mean `go {word}`?"
    elif near:
        hint = f"did you mean `{near[0]}`?"
    elif group:
        hint = usage(" ".join(group))
    else:
        hint = f"to run a program: `vimto exec {word}`"
    return UsageError(f"`{' '.join(['vimto', *group])}` has no command `{word}`", hint=hint)


def usage(name: str) -> str:
    """Return the first line of a command's help."""
    row = find_command(name.split())
    assert row
    return row.usage


def help_text(words: list[str]) -> str:
    """Return what `vimto help WORDS` prints; raises `UsageError` for an unknown command."""
    if not words:
        return _overview()
    row = find_command(words)
    if row is None or row.name.count(" ") + 1 < len(words):
        known = row.name.split() if row and children(row.name) else []
        raise unknown_command([*known, words[len(known)]])
    if row.topic:
        parts = [f"{row.name}: {row.summary}", "\n".join(_items(row.text.split("; ")))]
    else:
        parts = [row.usage, _fill(f"{row.summary[0].upper()}{row.summary[1:]}.")]
        parts += [_fill(row.text)] if row.text else []
    below = children(row.name)
    if below:
        parts.append("commands:\n" + "\n".join(_lines((sub.name, sub.summary) for sub in below)))
    if row.flags:
        parts.append("flags:\n" + "\n".join(_lines(row.flags)))
    if not row.topic:
        parts.append("vimto's own flags are listed by `vimto help`.")
    return "\n\n".join(parts) + "\n"


def _items(texts: list[str]) -> list[str]:
    import textwrap

    return [
        line
        for text in texts
        for line in textwrap.wrap(text, 90, initial_indent="  ", subsequent_indent="    ")
    ]


def _overview() -> str:
    from vimto.settings import SETTINGS

    rows = [
        (f"{row.name} {'…' if row.arguments and row.name != 'config' else ''}".strip(), row.summary)
        for row in COMMANDS
        if " " not in row.name and not row.alias and not row.topic
    ]
    flags = [
        (f"-{row.flags[0]}" + (f" {row.metavar}" if row.metavar else ""), row.help)
        for row in SETTINGS
    ]
    return _HEAD + "\n".join(_lines(rows)) + "\n" + _TAIL + "\n".join(_lines(flags)) + "\n"


def _lines(rows: object) -> list[str]:
    """Return a table of two columns, the second one wrapped."""
    import textwrap

    lines = []
    for name, text in rows:  # type: ignore[attr-defined]
        wrapped = textwrap.wrap(text, 70)
        head = f"  {name:<24}"
        lines += [head + wrapped[0] if len(name) < 24 else head.rstrip()]
        lines += [" " * 26 + line for line in (wrapped[1:] if len(name) < 24 else wrapped)]
    return lines


def _fill(text: str) -> str:
    import textwrap

    return textwrap.fill(text, 90)
