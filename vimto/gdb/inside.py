"""What runs inside gdb, in gdb's own Python: connect, symbols of modules, and how it all ended.

gdb imports this file by its path, so it imports nothing of ours; `gdb` is handed in, so that it can
be read, and tested, without one. Settings come as JSON, see `vimto.gdb.session`.
"""

import gzip
import json
import lzma
import os
import shutil
import subprocess
from collections.abc import Iterator
from typing import Any

_PANIC_FRAMES = 40
_MOD_TEXT = 0  # enum mod_mem_type, since 6.4
_COMING = 1  # enum module_state
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
    _await_result(gdb, settings)
    if settings["debug"]:
        modules = Modules(gdb, settings["modules"], settings["directory"])
        _follow_modules(gdb, modules, settings["hardware"])
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
        own = _read_elf(binary, address, min(32, -address % 4096 or 32))

        class Break(gdb.Breakpoint):  # type: ignore[misc]
            def stop(self) -> bool:
                try:
                    return bytes(gdb.selected_inferior().read_memory(address, len(own))) == own
                except gdb.error:
                    return False

        Break(f"*{address:#x}", type=gdb.BP_HARDWARE_BREAKPOINT)


def _read_elf(path: str, address: int, size: int) -> bytes:
    with open(path, "rb") as file:
        head = file.read(64)
        table = int.from_bytes(head[32:40], "little")
        count = int.from_bytes(head[56:58], "little")
        for index in range(count):
            file.seek(table + index * 56)
            entry = file.read(56)
            offset, start = (int.from_bytes(entry[at : at + 8], "little") for at in (8, 16))
            length = int.from_bytes(entry[32:40], "little")
            if entry[0] == 1 and start <= address < start + length:  # PT_LOAD
                file.seek(offset + address - start)
                return file.read(min(size, start + length - address))
    return b""


def _await_result(gdb: Any, settings: dict[str, Any]) -> None:
    """Say how the command ended when vimto stops the machine for that, or the machine is gone."""
    said: list[str] = []

    def say(text: str) -> None:
        if not said:
            said.append(text)
            gdb.write(f"vimto: {text}\n")
            if not settings["batch"]:
                gdb.post_event(lambda: gdb.execute("quit"))

    def stopped(_event: object) -> None:
        if os.path.exists(settings["result"]):
            with open(settings["result"], encoding="utf-8") as file:
                say(file.read())

    # What gdb does at its end, killing the machine, it cannot do without an error message.
    if hasattr(gdb.events, "gdb_exiting"):  # since gdb 12
        gdb.events.gdb_exiting.connect(lambda _event: _disconnect(gdb))
    gdb.events.stop.connect(stopped)
    gdb.events.exited.connect(
        lambda _event: say("the machine ended before the command reported its status")
    )


def _disconnect(gdb: Any) -> None:
    try:
        gdb.execute("disconnect", to_string=True)
    except gdb.error:
        pass  # the machine is gone, or the user has detached


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
        address = int(gdb.parse_and_eval("(long)&panic")) & (1 << 64) - 1
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


class Modules:
    """The kernel's modules: in its memory, and as files below `directory` ("" for none).

    Compressed files are unpacked into `scratch`.
    """

    def __init__(self, gdb: Any, directory: str, scratch: str) -> None:
        self._gdb = gdb
        self._scratch = scratch
        self.files = find_modules(directory) if directory else {}

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
        try:
            if not os.path.exists(target):
                with open(target, "wb") as out:
                    unpack(path, out)
        except (OSError, EOFError, lzma.LZMAError, subprocess.SubprocessError):
            return ""
        return target


def quote(path: str) -> str:
    """Return `path` as a word of a gdb command that splits its arguments."""
    escaped = path.replace("\\", "\\\\").replace('"', '\\"')
    return f'"{escaped}"'


def unpack(path: str, out: Any) -> None:
    """Write the content of a compressed file to `out`."""
    if path.endswith(".xz"):
        with lzma.open(path) as packed:
            shutil.copyfileobj(packed, out)
    elif path.endswith(".gz"):
        with gzip.open(path) as packed:
            shutil.copyfileobj(packed, out)
    else:
        subprocess.run(["zstd", "-qdc", "--", path], stdout=out, check=True)


def find_modules(directory: str) -> dict[str, str]:
    """Return the files of modules below `directory` by module name, with its underscores."""
    found = {}
    for place, _directories, names in os.walk(directory):
        for name in names:
            stem, dot, rest = name.partition(".ko")
            if dot and rest in ("", ".xz", ".gz", ".zst"):
                found[stem.replace("-", "_")] = os.path.join(place, name)
    return found
