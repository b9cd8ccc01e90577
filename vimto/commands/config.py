"""`vimto config`: every setting, its value, and where that came from."""

import json
import os
import textwrap
from collections.abc import Callable
from pathlib import Path

from vimto import console
from vimto.cache.place import find_fault
from vimto.commands.catalog import usage
from vimto.config import CONFIG_FILE, LOCK_FILE, Config, user_file_path
from vimto.errors import UsageError, VimtoError
from vimto.quoting import visible
from vimto.settings import SETTINGS, Setting
from vimto.values import Flag


def run(config: Config, argv: list[str]) -> int:
    """Print `config` to stdout in the form that `argv` asks for and return 0."""
    forms: dict[str, Callable[[Config], str]] = {
        "": show_toml,
        "-json": show_json,
        "-markdown": show_reference,
    }
    form = argv[0].replace("--", "-", 1) if argv else ""
    if form not in forms or len(argv) > 1:
        word = argv[-1] if form in forms else argv[0]
        raise UsageError(f"`vimto config` does not understand `{word}`", hint=usage("config"))
    console.show(forms[form](config))
    return 0


def show_toml(config: Config) -> str:
    """Return the settings as a TOML file with each value's origin as a comment."""
    files = [f"# {what}: {visible(where, keep='')}\n" for what, where in _files(config)]
    lines = [f"{row.key} = {_shown(row, config)}" for row in SETTINGS]
    width = min(40, max(map(len, lines)))
    chosen = in_use(config)
    return "".join(files) + "".join(
        f"{line:<{width}}  # {visible(config.origins[row.key], keep='')}"
        f"{'; in use: ' + visible(chosen[row.key], keep='') if row.key in chosen else ''}\n"
        for row, line in zip(SETTINGS, lines, strict=True)
    )


def in_use(config: Config) -> dict[str, str]:
    """Return, for settings that leave the choice to vimto, what it would choose here and now.

    Nothing is fetched or made.
    """
    from vimto.kernel.boot import find_host_kernel
    from vimto.plan.kernels import default_package, named_kernel, wanted_kernel
    from vimto.plan.prepare import BOOT_LIMIT
    from vimto.qemu.find import find_qemu
    from vimto.qemu.probe import choose_accelerator

    def qemu() -> str:
        return find_qemu(config.qemu)

    def accelerator() -> str:
        return choose_accelerator(config.accel).name

    def kernel() -> str:
        if config.kernel and not (config.lock and config.lock.exists()):
            return ""
        if config.kernel:
            locked = wanted_kernel(config)
            return f"{locked}, by {LOCK_FILE}" if locked != named_kernel(config) else ""
        return str(find_host_kernel() or f"apt:{default_package()}")

    choices: dict[str, Callable[[], str]] = {
        "kernel": kernel,
        "user": lambda: str(os.getuid()) if not (config.user or config.sudo) else "",
        "qemu": qemu if os.sep not in config.qemu else str,
        "accel": accelerator if config.accel == "auto" else str,
        "boot_timeout": lambda: "" if config.boot_timeout else f"{BOOT_LIMIT[accelerator()]:g}s",
        "cache_dir": lambda: find_fault(config.cache_dir) and "another place, for it is unsafe",
    }
    found = {}
    for key, choose in choices.items():
        try:
            found[key] = choose()
        except VimtoError as exc:
            found[key] = f"none: {exc.message}"
    return {key: value for key, value in found.items() if value}


def _files(config: Config) -> list[tuple[str, str]]:
    own = str(config.user_file or user_file_path() or "no home directory")
    return [
        ("your own file", own if config.user_file else f"{own} (none)"),
        ("the repository's", str(config.file or f"{CONFIG_FILE} (none)")),
    ]


def _shown(row: Setting, config: Config) -> str:
    return row.kind.show(getattr(config, row.key))


def show_json(config: Config) -> str:
    """Return the settings as a JSON object: key to `{"value": …, "origin": …}`."""
    values = {
        row.key: {"value": _plain(getattr(config, row.key)), "origin": config.origins[row.key]}
        for row in SETTINGS
    }
    for key, value in in_use(config).items():
        values[key]["in_use"] = value
    return json.dumps(values, indent=2) + "\n"


def _plain(value: object) -> object:
    return str(value) if isinstance(value, Path) else value


_HEAD = f"""\
# Configuration

<!-- Written by `vimto config -markdown` from the table in vimto/settings.py; a test compares. -->

Most projects need one line, and many none:

```toml
# {CONFIG_FILE}
kernel = "ghcr.io/cilium/ci-kernels:stable"
```

`vimto config` prints every setting, its value, and where it came from.

## Where settings come from

From the weakest to the strongest:

1. **defaults**;
2. **your own file**, `$XDG_CONFIG_HOME/vimto/config.toml`, without that variable
   `~/.config/vimto/config.toml`: for every repository, with the same keys;
3. **`{CONFIG_FILE}`** in the working directory or, if there is none, in the root of the repository:
   the nearest directory upward with a `.git` or, without one, with a `go.mod`. The two are not
   merged. An unknown key is an error;
4. **environment variables** `VIMTO_…`. An empty one counts as unset, one without a setting gets
   a warning. Lists have one item a line;
5. **flags**, before the command: `vimto -memory 2G go test ./...`. They follow Go's rules: one dash
   or two, `-memory 2G` or `-memory=2G`, switches alone or as `-snapshot=false`, which can also be
   written `-no-snapshot`. `--` ends them and can be left out.

The strongest source wins. **Lists add up** instead, weakest source first, and an empty item drops
what came before it: `-setup '' -setup 'modprobe vxlan'` runs that command alone.

**Relative paths** in the file are relative to the file; in variables and flags, to the working
directory. go runs `go test -exec 'vimto -kernel ./bzImage' ./...` in each package's directory: a
kernel that does not lie there is looked for in the directories above, up to the repository's root.

**Commands** (`setup`, `teardown`) are strings, split into arguments as a shell does but without
expanding anything, or lists of arguments. For a shell, start one:
`setup = ["sh -c 'modprobe bpf_testmod || true'"]`.

`sudo` and `user` name the same thing; the stronger source decides.

**A repository's file shapes the machine**, for it comes along with whatever is cloned. What
concerns the host is yours to say: programs that run there, directories outside of the repository,
addresses that others reach, limits on the disk. In `{CONFIG_FILE}` that is an error, unless you say
the same by flag, by variable or in your own file. Below, each setting tells what such a file may
do, and why. It does not matter whether the file lies in the repository's root or in another working
directory. [sandbox.md](sandbox.md) tells what a machine keeps from the host, and what it does not.

## All settings

"""


def show_reference(_config: Config | None = None) -> str:
    """Return the page docs/configuration.md, which no configuration changes."""
    return _HEAD + "\n".join(map(_reference, SETTINGS))


def _reference(row: Setting) -> str:
    flag = f"`-{row.flags[0]}`" if row.is_switch else f"`-{row.flags[0]} {row.metavar}`"
    if row.kind.flag is Flag.SWITCHES:
        flag += f" or `-no-{row.flags[0]}`"
    elif row.kind.many or row.is_switch:
        flag += ", repeatable"
    default = row.shown_default or f"`{row.kind.show(row.default)}`"
    sentences = (
        f"{row.help[0].upper()}{row.help[1:]}.",
        f"Flag {flag}; variable `{row.variable}`; default {default}.",
        f"A repository's file {row.trust.words}.",
    )
    return f"### `{row.key}`\n" + "".join(f"\n{_fill(sentence)}\n" for sentence in sentences)


def _fill(text: str) -> str:
    return textwrap.fill(text, 100, break_long_words=False, break_on_hyphens=False)
