"""The manual page and the shells' completions, from the tables of settings and commands.

They lie ready-made in `docs/share/`, which a wheel installs where man and the shells look; a test
compares.
"""

from collections.abc import Callable

from vimto import console
from vimto.commands.catalog import COMMANDS, Command, children, help_text, usage
from vimto.errors import UsageError
from vimto.settings import SETTINGS, Setting
from vimto.version import describe


def print_help(words: list[str]) -> int:
    """Print the help of the command that `words` name, or vimto's own, and return 0."""
    console.show(help_text(words))
    return 0


def print_version(words: list[str]) -> int:
    """Print the version, with the commit, and return 0."""
    if words:
        raise UsageError(f"unexpected argument `{words[0]}`", hint=usage("version"))
    console.show(f"vimto {describe()}\n")
    return 0


def print_completion(words: list[str]) -> int:
    """Print the completion of the shell that `words` name and return 0."""
    if len(words) != 1 or words[0] not in SHELLS:
        raise UsageError("which shell? `bash`, `zsh` or `fish`", hint=usage("completion"))
    console.show(SHELLS[words[0]]())
    return 0


def print_manual(words: list[str]) -> int:
    """Print the manual page and return 0."""
    if words:
        raise UsageError(f"unexpected argument `{words[0]}`", hint=usage("manual"))
    console.show(manual())
    return 0


# -- man(7)


def manual() -> str:
    """Return the manual page."""
    rows = [row for row in COMMANDS if not row.topic]
    topics = [row for row in COMMANDS if row.topic]
    parts = [
        '.\\" Written by `vimto manual` from the tables of settings and commands.',
        ".TH VIMTO 1",
        ".SH NAME",
        "vimto \\- run Go tests in a virtual machine under a Linux kernel of your choice",
        ".SH SYNOPSIS",
        ".B vimto",
        "[\\fIflags\\fR] \\fIcommand\\fR [\\fIarguments\\fR]",
        ".SH COMMANDS",
        *(line for row in rows for line in _man_command(row)),
        ".SH FLAGS",
        "They stand before the command. Each is also a key in .vimto.toml and a variable.",
        *(line for row in SETTINGS for line in _man_flag(row)),
        *(line for row in topics for line in (f".SH {row.name.upper()}", _roff(row.text))),
        ".SH EXIT STATUS",
        "The command's own; 128+N if signal N ended it; 127 and 126 if it was not found or could",
        "not be executed; 125 if vimto or the machine failed, which is not a failure of the test.",
        ".SH FILES",
        ".I .vimto.toml",
        "in the working directory, or in the root of the repository;",
        ".I $XDG_CONFIG_HOME/vimto/config.toml",
        "is the user's own.",
    ]
    return "\n".join(parts) + "\n"


def _man_command(row: Command) -> list[str]:
    lines = [".TP", f".B {_roff(f'{row.name} {row.arguments}'.strip())}"]
    lines.append(_roff(f"{row.summary[0].upper()}{row.summary[1:]}."))
    lines += [_roff(row.text)] if row.text else []
    for flag, text in row.flags:
        lines += [".br", f"\\fB{_roff(flag)}\\fR: {_roff(text)}"]
    return lines


def _man_flag(row: Setting) -> list[str]:
    default = row.shown_default or row.kind.show(row.default)
    return [
        ".TP",
        f".B {_roff(_flag(row))}",
        _roff(f"{row.help[0].upper()}{row.help[1:]}."),
        _roff(f"Variable {row.variable}; default {default}."),
    ]


def _roff(text: str) -> str:
    """Return `text` as roff has it; a backtick is bold's beginning or end."""
    escaped = text.replace("\\", "\\e").replace("-", "\\-").replace("'", "\\(aq")
    pieces = escaped.split("`")
    shown = "".join(
        f"\\fB{piece}\\fR" if index % 2 else piece for index, piece in enumerate(pieces)
    )
    return f"\\&{shown}" if shown.startswith((".", "\\(aq")) else shown


def _flag(row: Setting) -> str:
    return f"-{row.flags[0]}" + (f" {row.metavar}" if row.metavar else "")


# -- shells


def _groups() -> list[tuple[str, list[Command]]]:
    """Return the names that have commands below them, and those; "" is vimto itself."""
    names = ["", *(row.name for row in children(""))]
    return [(name, below) for name in names if (below := children(name))]


def _last(row: Command) -> str:
    return row.name.rpartition(" ")[2]


def _takers() -> list[str]:
    """Return the flags that are followed by a value."""
    return [f"-{name}" for row in SETTINGS if not row.is_switch for name in row.flags]


def _short(text: str) -> str:
    """Return the beginning of a help text, up to what explains it."""
    for mark in (": ", "; ", " ("):
        text = text.partition(mark)[0]
    return text


def bash() -> str:
    """Return bash's completion."""
    flags = " ".join(f"-{name}" for row in SETTINGS for name in row.flags)
    cases = []
    for name, below in _groups():
        words = " ".join(_last(row) for row in below)
        cases.append(f'        "{name}") words="{words}" ;;')
    for row in COMMANDS:
        if row.flags:
            own = " ".join(flag.split()[0] for flag, _ in row.flags)
            cases.append(f'        "{row.name}") words="{own}" ;;')
    tops = [row for row in COMMANDS if " " not in row.name]
    runs = "|".join(row.name for row in tops if row.completes == "commands")
    paths = "|".join(f"{row.name}*" for row in tops if row.completes)
    return f"""\
# bash completion for vimto; written by `vimto completion bash`.
_vimto() {{
    local current=${{COMP_WORDS[COMP_CWORD]}} command="" words="" i
    COMPREPLY=()
    for ((i = 1; i < COMP_CWORD; i++)); do
        case ${{COMP_WORDS[i]}} in
            {"|".join(_takers())}) [[ $command ]] || ((i++)) ;;
            -*) ;;
            *) [[ $command == *" "* ]] || command="$command${{command:+ }}${{COMP_WORDS[i]}}" ;;
        esac
    done
    if ((i > COMP_CWORD)); then
        mapfile -t COMPREPLY < <(compgen -f -- "$current")
        return
    fi
    case $command in
{chr(10).join(cases)}
    esac
    [[ $command || $current != -* ]] || words="{flags}"
    mapfile -t COMPREPLY < <(compgen -W "$words" -- "$current")
    case $command in
        {runs}) mapfile -t COMPREPLY < <(compgen -c -- "$current") ;;
        {paths}) mapfile -t -O "${{#COMPREPLY[@]}}" COMPREPLY < <(compgen -f -- "$current") ;;
    esac
}}
complete -o filenames -F _vimto vimto
"""


def zsh() -> str:
    """Return zsh's completion."""
    lines = ["#compdef vimto", "# Written by `vimto completion zsh`.", "", "_vimto() {"]
    lines += ["    local state line", "    local -a words_below", "    _arguments -S \\"]
    for row in SETTINGS:
        text = _zsh(_short(row.help))
        value = f":{row.metavar.split('[')[0]}:_files" if not row.is_switch else ""
        lines.append(f"        '*-{row.flags[0]}[{text}]{value}' \\")
    lines += ["        '1: :->command' '*:: :->rest'", "    case $state in", "        command)"]
    lines += [*_zsh_describe(children("")), "            ;;", "        rest)"]
    lines += ["            case $line[1] in"]
    for name, below in _groups()[1:]:
        lines += [f"                {name})", "                    if ((CURRENT == 1)); then"]
        lines += _zsh_describe(below)
        lines += ["                    else _files; fi ;;"]
    lines += ["                exec) _normal ;;", "                *) _files ;;"]
    lines += ["            esac ;;", "    esac", "}", "", '_vimto "$@"']
    return "\n".join(lines) + "\n"


def _zsh_describe(rows: list[Command]) -> list[str]:
    pairs = " ".join(f"'{_last(row)}:{_zsh(row.summary)}'" for row in rows)
    return [f"            words_below=({pairs})", "            _describe command words_below"]


def _zsh(text: str) -> str:
    for mark in "[]:":
        text = text.replace(mark, f"\\{mark}")
    return text.replace("`", "").replace("'", "'\\''")


def fish() -> str:
    """Return fish's completion."""
    lines = ["# fish completion for vimto; written by `vimto completion fish`.", ""]
    tops = " ".join(row.name for row in children("", aliases=True))
    lines += [f"set -l commands {tops}", "complete -c vimto -f"]
    start = "not __fish_seen_subcommand_from $commands"
    for setting in SETTINGS:
        value = "" if setting.is_switch else " -r"
        flag = f"-o {setting.flags[0]}{value} -d {_fish(setting.help)}"
        lines.append(f'complete -c vimto -n "{start}" {flag}')
    for name, below in _groups():
        seen = f"__fish_seen_subcommand_from {name}" if name else start
        if name:
            seen += f"; and not __fish_seen_subcommand_from {' '.join(map(_last, below))}"
        for row in below:
            summary = _fish(row.summary)
            lines.append(f'complete -c vimto -n "{seen}" -a {_last(row)} -d {summary}')
    for row in COMMANDS:
        seen = f"__fish_seen_subcommand_from {_last(row)}"
        for own_flag, text in row.flags:
            own = own_flag.split()[0].lstrip("-")
            lines.append(f'complete -c vimto -n "{seen}" -o {own} -d {_fish(text)}')
        if row.completes == "commands":
            names = '"(__fish_complete_subcommand)"'
            lines.append(f'complete -c vimto -n "{seen}" -x -a {names}')
        elif row.completes == "files" and " " not in row.name:
            lines.append(f'complete -c vimto -n "{seen}" -F')
    return "\n".join(lines) + "\n"


def _fish(text: str) -> str:
    return "'" + _short(text).replace("\\", "\\\\").replace("'", "\\'") + "'"


SHELLS: dict[str, Callable[[], str]] = {"bash": bash, "zsh": zsh, "fish": fish}
