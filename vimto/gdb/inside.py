"""What runs inside gdb, in gdb's own Python: connect, symbols of modules, and how it all ended.

gdb imports this file by its path, so it imports nothing of ours; `gdb` is handed in, so that it can
be read, and tested, without one. Its configuration comes as JSON, see `vimto.gdb.session`.
"""

import importlib.util
import json
import os
import re
import select
import subprocess
from collections.abc import Iterator
from typing import Any

_PANIC_FRAMES = 40
_MOD_TEXT = 0  # enum mod_mem_type, since 6.4
_COMING = 1  # enum module_state
# How long QEMU may take to be gone after its connection is.
_ENDING = 0.5
_FIRST_ARGUMENT = {"i386:x86-64": "rdi", "aarch64": "x0"}
_SECTIONS = (".text", ".text.unlikely", ".exit.text", ".rodata", ".data", ".bss")


def start(gdb: Any, path: str) -> None:
    """Connect gdb to the machine as the settings in `path` say, and tell the user where it is."""
    with open(path, encoding="utf-8") as file:
        settings = json.load(file)
    try:
        gdb.execute(f"target remote {settings['target']}", to_string=True)
    except gdb.error as exc:
        gdb.write(f"vimto: gdb cannot reach the machine: {exc}\n")
        gdb.execute("quit 1")
    ending = Ending(gdb, settings)
    ending.watch()
    if settings["debug"]:
        modules = Modules(gdb, settings)
        _follow_modules(gdb, modules, settings["hardware"])
    elif not settings["hardware"]:
        _follow_listings(gdb, settings)
    if settings["go"]:
        gdb.execute(f"add-symbol-file {quote(settings['go'])}", to_string=True)
    _watch_panic(gdb, settings)
    for place in settings["breaks"]:
        _set_break(gdb, place, settings)
    for line in settings["greeting"]:
        gdb.write(f"vimto: {line}\n")


def _set_break(gdb: Any, place: str, settings: dict[str, Any]) -> None:
    # A page of a program may not be there yet: that takes one of the processor's own breakpoints,
    # as does a kernel that has not begun to run.
    verb = "hbreak" if settings["hardware"] else "break"
    if settings["go"] and _is_go_symbol(gdb, place):
        _GoBreak.make(gdb, place, settings["go"])
        return
    try:
        gdb.execute(f"{verb} {place}")
    except gdb.error as exc:
        gdb.write(f"vimto: no breakpoint at `{place}`: {exc}\n")


def _is_go_symbol(gdb: Any, place: str) -> bool:
    if ":" in place:
        return place.partition(":")[0].endswith(".go")
    return "." in place and _find_address(gdb, place) is not None


def _find_address(gdb: Any, place: str) -> int | None:
    try:
        spec = place if ":" in place else f"'{place}'"
        found = gdb.decode_line(spec)[1]
        return int(found[0].pc) if found else None
    except gdb.error:
        return None


class _GoBreak:
    """Breakpoints in the test binary.

    Every process has something at that address, the guest program (it is written in Go as well)
    for one: a stop counts only where the instructions there are the binary's own.
    """

    @staticmethod
    def make(gdb: Any, place: str, binary: str) -> None:
        address = _find_address(gdb, place)
        if address is None:
            gdb.write(f"vimto: no breakpoint at `{place}`: it is not in the test binary\n")
            return
        # Within a page: of the next one, the guest may not have brought in anything.
        with open(binary, "rb") as file:
            elf = load_beside("../elf.py").Elf(file)
            own: bytes = elf.read_memory(address, min(32, -address % 4096 or 32))

        class Break(gdb.Breakpoint):  # type: ignore[misc]
            def stop(self) -> bool:
                try:
                    return bytes(gdb.selected_inferior().read_memory(address, len(own))) == own
                except gdb.error:
                    return False

        Break(f"*{address:#x}", type=gdb.BP_HARDWARE_BREAKPOINT)


class Ending:
    """Says, once, how the command ended: when vimto stops the machine for that, or it is gone."""

    def __init__(self, gdb: Any, settings: dict[str, Any]) -> None:
        self._gdb = gdb
        self._settings = settings
        self._said = False
        self._leaving = False

    def watch(self) -> None:
        """Take part in gdb's events."""
        events = self._gdb.events
        # What gdb does at its end, killing the machine, it cannot do without an error message.
        if hasattr(events, "gdb_exiting"):  # since gdb 12
            events.gdb_exiting.connect(self._leave)
        events.stop.connect(self._stopped)
        events.exited.connect(self._exited)

    def _stopped(self, event: object) -> None:
        if not os.path.exists(self._settings["result"]) or self._said:
            return
        # gdb has printed that line already, and has no setting to stop at a signal without it.
        if getattr(event, "stop_signal", "") == "SIGINT":
            self._gdb.write("vimto: this SIGINT is how vimto stops the machine at the end\n")
        with open(self._settings["result"], encoding="utf-8") as file:
            self._say(file.read())

    def _exited(self, _event: object) -> None:
        # `detach` and `disconnect` raise this event too, and so does our own at gdb's end.
        if self._leaving:
            return
        if is_running(self._settings["machine"]):
            self._gdb.write(
                "vimto: gdb has let go of the machine; the command goes on without it\n"
            )
        else:
            self._say("the machine ended before the command reported its status")

    def _say(self, text: str) -> None:
        if self._said:
            return
        self._said = True
        self._gdb.write(f"vimto: {text}\n")
        self._tell_unresolved()
        # An event that is posted while gdb exits outlives its Python, and crashes gdb 13.
        if not self._settings["batch"] and not self._leaving:
            self._gdb.post_event(self._quit)

    def _quit(self) -> None:
        self._gdb.execute("quit")

    def _leave(self, _event: object) -> None:
        self._leaving = True
        if not self._said:
            self._tell_unresolved()
        try:
            self._gdb.execute("disconnect", to_string=True)
        except self._gdb.error:
            pass  # the machine is gone, or the user has detached

    def _tell_unresolved(self) -> None:
        for breakpoint in self._gdb.breakpoints() or ():
            if breakpoint.pending:
                self._gdb.write(
                    f"vimto: the breakpoint at `{breakpoint.location}` was never set:"
                    " nothing of that name was loaded\n"
                )


def is_running(pid: int) -> bool:
    """Say whether the process `pid` runs on, after a moment in which it may have ended."""
    try:
        fd = os.pidfd_open(pid)
    except OSError:
        return False
    try:
        return not select.select([fd], [], [], _ENDING)[0]
    finally:
        os.close(fd)


def _kind(gdb: Any, hardware: bool) -> Any:
    # Before the kernel runs there is no memory to write an instruction to.
    return gdb.BP_HARDWARE_BREAKPOINT if hardware else gdb.BP_BREAKPOINT


def _watch_panic(gdb: Any, settings: dict[str, Any]) -> None:
    class Panic(gdb.Breakpoint):  # type: ignore[misc]
        def stop(self) -> bool:
            gdb.write("\nvimto: kernel panic; the machine ends after it\n")
            try:
                gdb.execute(f"backtrace {_PANIC_FRAMES}")
            except gdb.error as exc:
                gdb.write(f"{exc}\n")
            return not settings[
                "batch"
            ]  # a script goes on to the end, which tells how the panic was met

    try:
        # The address, not the name: of some kernels' panic() there is a second, inlined place.
        address = _address_of(gdb, "panic")
        Panic(f"*{address:#x}", type=_kind(gdb, settings["hardware"]), internal=True)
    except gdb.error:
        pass  # a kernel without that symbol


def _follow_modules(gdb: Any, modules: "Modules", booting: bool) -> None:
    """Load the symbols of all modules now, and of each later one before it is initialised."""
    try:
        for module in () if booting else modules.loaded():
            modules.add(module)

        class Load(gdb.Breakpoint):  # type: ignore[misc]
            def stop(self) -> bool:
                try:
                    modules.add(gdb.parse_and_eval("mod"))
                except gdb.error as exc:
                    gdb.write(f"vimto: the symbols of a module were not loaded: {exc}\n")
                return False

        if modules.files:
            Load("do_init_module", type=_kind(gdb, booting), internal=True)
    except gdb.error as exc:  # a kernel without modules
        if "No symbol" not in str(exc):
            gdb.write(f"vimto: the symbols of modules were not loaded: {exc}\n")


def _follow_listings(gdb: Any, settings: dict[str, Any]) -> None:
    """Give gdb the names of each later module before it is initialised, from its own list."""
    try:
        address = _address_of(gdb, "do_init_module")
    except gdb.error:
        return  # a kernel without modules
    listings = Listings(gdb, settings)
    for path in settings["listings"]:
        gdb.execute(f"add-symbol-file {quote(path)}", to_string=True)

    class Load(gdb.Breakpoint):  # type: ignore[misc]
        def stop(self) -> bool:
            try:
                listings.add()
            except (gdb.error, OSError, ValueError) as exc:
                gdb.write(f"vimto: the names of a module were not loaded: {exc}\n")
            return False

    Load(f"*{address:#x}", internal=True)


def _address_of(gdb: Any, name: str) -> int:
    return int(gdb.parse_and_eval(f"(long)&{name}")) & (1 << 64) - 1


def load_beside(file: str) -> Any:
    """Import a file by its place beside this one; gdb's Python knows nothing of vimto."""
    path = os.path.join(os.path.dirname(os.path.abspath(__file__)), file)
    name = os.path.basename(file).removesuffix(".py")
    spec = importlib.util.spec_from_file_location(f"vimto_{name}", path)
    assert spec and spec.loader
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


class Listings:
    """Modules of a kernel without debug information; vimto copied its BTF into `directory`."""

    def __init__(self, gdb: Any, settings: dict[str, Any]) -> None:
        self._gdb = gdb
        self._directory = settings["directory"]
        self._listing = load_beside("listing.py")
        self._elf = load_beside("../elf.py")
        self._layout: Any = None

    def add(self) -> None:
        """Load the names of the module that is the first argument of where gdb stands.

        Raises `ValueError` where the kernel does not say how to find them.
        """
        if self._layout is None:
            self._layout = self._find_layout()
        gdb = self._gdb
        architecture = gdb.selected_frame().architecture().name()
        if architecture not in _FIRST_ARGUMENT:
            raise ValueError(f"where {architecture} has its arguments is not known here")
        register = _FIRST_ARGUMENT[architecture]
        pointer = int(gdb.parse_and_eval(f"(long)${register}")) & (1 << 64) - 1
        memory = gdb.selected_inferior()
        name, symbols = self._listing.read_module(
            lambda at, size: bytes(memory.read_memory(at, size)), pointer, self._layout
        )
        # The guest chose the name, and gdb takes what follows a newline for another command.
        path = os.path.join(self._directory, "module-" + re.sub(r"[^\w.-]", "_", name))
        with open(path, "wb") as file:
            self._elf.write_symbols(symbols, file)
        gdb.execute(f"add-symbol-file {quote(path)}", to_string=True)

    def _find_layout(self) -> Any:
        try:
            with open(os.path.join(self._directory, "vmlinux"), "rb") as file:
                layout = self._listing.find_layout(file.read())
        except FileNotFoundError:
            layout = None
        if layout is None:
            raise ValueError("the kernel has no type information (CONFIG_DEBUG_INFO_BTF)")
        return layout


class Modules:
    """The kernel's modules: in its memory, and as files below two directories ("" for none).

    Those below `debug_modules` have debug information and are preferred. Compressed files are
    unpacked into `directory`, by the command `unpack`.
    """

    def __init__(self, gdb: Any, settings: dict[str, Any]) -> None:
        self._gdb = gdb
        self._scratch = settings["directory"]
        self._unpack = settings["unpack"]
        places = (settings["modules"], settings["debug_modules"])
        self.files = {
            name: path for place in places if place for name, path in find_modules(place).items()
        }

    def loaded(self) -> Iterator[Any]:
        """Yield the `struct module` pointers of all loaded modules."""
        gdb = self._gdb
        head = gdb.parse_and_eval("&modules")
        offset = int(gdb.parse_and_eval("(unsigned long)&((struct module *)0)->list"))
        pointer = gdb.lookup_type("struct module").pointer()
        item = head["next"]
        while item and item != head:
            yield gdb.Value(int(item) - offset).cast(pointer)
            item = item["next"]

    def add(self, module: Any) -> None:
        """Tell gdb where the sections of `module` lie; without its file nothing happens."""
        name = module["name"].string()
        path = self._unpacked(name)
        if not path:
            return
        sections = self._sections(module)
        text = sections.pop(".text", None) or self._text(module)
        others = " ".join(f"-s {name} {at:#x}" for name, at in sections.items())
        words = f"{quote(path)} {text:#x} {others}"
        self._gdb.execute(f"add-symbol-file {words}", to_string=True)

    def _text(self, module: Any) -> int:
        try:
            return int(module["mem"][_MOD_TEXT]["base"])
        except self._gdb.error:
            return int(module["core_layout"]["base"])  # before 6.4

    def _sections(self, module: Any) -> dict[str, int]:
        found: dict[str, int] = {}
        try:
            attributes = module["sect_attrs"]
            if not attributes:
                return found
            entries = attributes["attrs"]
            old = any(field.name == "nsections" for field in attributes.type.target().fields())
            for index in range(int(attributes["nsections"]) if old else 64):
                if old:
                    name = entries[index]["battr"]["attr"]["name"].string()
                    found[name] = int(entries[index]["address"])
                elif not attributes["grp"]["bin_attrs"][index]:
                    break
                else:  # since 6.14
                    name = entries[index]["attr"]["name"].string()
                    found[name] = int(entries[index]["private"])
        except self._gdb.error:
            pass  # another layout: the code's place is known without it
        wanted: tuple[str, ...] = _SECTIONS
        if int(module["state"]) == _COMING:
            wanted = (*_SECTIONS, ".init.text")  # of the others it is gone, and reused
        return {name: at for name, at in found.items() if name in wanted}

    def _unpacked(self, name: str) -> str:
        path = self.files.get(name, "")
        if not path or path.endswith(".ko"):
            return path
        target = os.path.join(self._scratch, f"{name}.ko")
        if not os.path.exists(target):
            with open(f"{target}.new", "wb") as out:
                try:
                    subprocess.run([*self._unpack, path], stdout=out, check=True)
                except (OSError, subprocess.SubprocessError):
                    return ""
            os.rename(f"{target}.new", target)
        return target


def quote(path: str) -> str:
    """Return `path` as a word of a gdb command that splits its arguments."""
    escaped = path.replace("\\", "\\\\").replace('"', '\\"')
    return f'"{escaped}"'


def find_modules(directory: str) -> dict[str, str]:
    """Return the files of modules below `directory` by module name, with its underscores."""
    found = {}
    for place, _directories, names in os.walk(directory):
        for name in names:
            stem, dot, rest = name.partition(".ko")
            if dot and rest in ("", ".xz", ".gz", ".zst"):
                found[stem.replace("-", "_")] = os.path.join(place, name)
    return found
