"""Imports point one way, the hot path stays light, and importing does nothing else."""

import ast
import json
import re
import subprocess
import sys
import tomllib
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
PACKAGE = ROOT / "vimto"

# A module imports from its own row and from those above it. A package stands for all its modules.
ROWS = (
    (
        "errors",
        "console",
        "quoting",
        "descriptors",
        "beneath",
        "places",
        "waiting",
        "files",
        "limits",
        "diskimage",
    ),
    (
        "compression",
        "elf",
        "addresses",
        "disks",
        "verbatim",
        "trust",
        "values",
        "settings",
        "config",
    ),
    ("cache",),
    ("process",),
    ("version",),
    ("go",),
    ("kernel",),
    ("oci",),
    ("inventory",),
    ("qemu",),
    ("plan",),
    ("vm",),
    ("gdb",),
    ("health",),
    ("shim",),
    ("commands",),
    ("cli", "__main__"),
)
RANK = {name: rank for rank, row in enumerate(ROWS) for name in row}

# What a run of the shim may load of the standard library besides the interpreter's own private
# modules; every name costs each test binary its time.
HOT = """
abc annotationlib ast binascii codecs collections contextlib copyreg encodings enum errno fcntl
functools gc genericpath io itertools json keyword math operator os posixpath re reprlib resource
select signal site stat struct sys time types typing warnings zlib
"""
# Of ours, those that the shim needs; nothing of `kernel`, `oci`, `commands`, `config`.
HOT_PACKAGES = (*ROWS[0], "cache", "process", "qemu", "plan", "vm", "shim")


NOT_AT_IMPORT = ("TYPE_CHECKING", "__name__ == '__main__'")


def modules() -> list[str]:
    names = []
    for path in sorted(PACKAGE.rglob("*.py")):
        parts = path.relative_to(ROOT).with_suffix("").parts
        names.append(".".join(parts[:-1] if parts[-1] == "__init__" else parts))
    return names


MODULES = modules()


def path_of(module: str) -> Path:
    path = ROOT.joinpath(*module.split("."))
    return path / "__init__.py" if path.is_dir() else path.with_suffix(".py")


def tree_of(module: str) -> ast.Module:
    return ast.parse(path_of(module).read_text())


def imports_of(nodes: Iterator[ast.AST]) -> set[str]:
    """Return the modules of ours that the import statements among `nodes` load."""
    found = set()
    for node in nodes:
        if isinstance(node, ast.Import):
            found |= {name.name for name in node.names}
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, "imports are absolute"
            for name in node.names:
                inner = f"{node.module}.{name.name}"
                found.add(inner if inner in MODULES else str(node.module))
    return {name for name in found if name.startswith("vimto.")}


def statements(body: list[ast.stmt]) -> Iterator[ast.AST]:
    """Walk what runs at import: everything but the bodies of functions and type-checking code."""
    for node in body:
        if isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef)):
            for part in (*node.decorator_list, *node.args.defaults, *node.args.kw_defaults):
                yield from ast.walk(part) if part else ()
        elif isinstance(node, ast.ClassDef):
            for part in (*node.decorator_list, *node.bases):
                yield from ast.walk(part)
            yield from statements(node.body)
        elif not (isinstance(node, ast.If) and ast.unparse(node.test) in NOT_AT_IMPORT):
            yield from ast.walk(node)


def row_of(module: str) -> str:
    return module.split(".")[1]


@pytest.mark.parametrize("module", [name for name in MODULES if "." in name])
def test_imports_point_upward(module: str) -> None:
    assert row_of(module) in RANK, "a new module needs a place in ROWS"
    for other in imports_of(ast.walk(tree_of(module))):
        assert RANK[row_of(other)] <= RANK[row_of(module)], f"{module} imports {other}"


@pytest.mark.parametrize("module", MODULES)
def test_what_meets_in_the_plan_alone_stays_apart(module: str) -> None:
    for room, apart in {"vm": {"go", "kernel", "oci"}, "qemu": {"kernel", "oci"}}.items():
        if module.startswith(f"vimto.{room}."):
            assert {row_of(other) for other in imports_of(ast.walk(tree_of(module)))}.isdisjoint(
                apart
            )


def test_modules_can_be_ranked() -> None:
    """Each stands above all that it imports, whenever it does: no circle, be it for types alone."""
    graph = {name: imports_of(ast.walk(tree_of(name))) for name in MODULES}
    done: set[str] = set()

    def visit(name: str, trail: tuple[str, ...]) -> None:
        assert name not in trail, " -> ".join((*trail, name))
        if name not in done:
            for other in sorted(graph.get(name, ())):
                visit(other, (*trail, name))
            done.add(name)

    for name in MODULES:
        visit(name, ())


@pytest.mark.parametrize("module", MODULES)
def test_nothing_reads_the_environment_at_import(module: str) -> None:
    for node in statements(tree_of(module).body):
        text = ast.unparse(node) if isinstance(node, ast.Attribute) else ""
        assert text not in ("os.environ", "os.environb", "sys.argv"), f"{module}: {text}"


# Imports one module after the other and reports what ours do meanwhile, and not what the modules
# they import do: the nearest frame that is not the import system's tells.
PROBE = """
import importlib, json, sys
seen = []
SUSPECT = ("open", "os.listdir", "os.scandir", "os.mkdir", "os.remove", "os.rename", "os.symlink",
           "os.posix_spawn", "os.fork", "os.exec", "subprocess.Popen", "socket.__new__", "exec.sh")
def hook(event, args):
    if event not in SUSPECT:
        return
    frame = sys._getframe(1)
    while frame and "importlib" in frame.f_code.co_filename:
        frame = frame.f_back
    if frame and frame.f_globals.get("__name__", "").startswith("vimto."):
        if event != "open" or not str(args[0]).endswith((".py", ".pyc", ".so")):
            if event not in ("os.listdir", "os.scandir") or frame is sys._getframe(1):
                seen.append([frame.f_globals["__name__"], event, str(args[:1])])
sys.addaudithook(hook)
for name in json.loads(sys.argv[1]):
    importlib.import_module(name)
print(json.dumps(seen))
"""


def test_nothing_happens_at_import() -> None:
    names = [name for name in MODULES if not name.endswith("__main__")]
    # -B: a compiled file that is written is an open of a name that is not.
    words = [sys.executable, "-B", "-c", PROBE, json.dumps(names)]
    done = subprocess.run(words, cwd=ROOT, capture_output=True, text=True, check=True)
    assert json.loads(done.stdout) == []


def test_what_is_installed_with_vimto_is_what_it_imports() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    declared = {re.split(r"[^\w.]", text)[0].lower() for text in project["dependencies"]}
    imported = set()
    for module in MODULES:
        for node in ast.walk(tree_of(module)):
            if isinstance(node, ast.Import):
                imported |= {name.name for name in node.names}
            elif isinstance(node, ast.ImportFrom):
                imported |= {f"{node.module}.{name.name}" for name in node.names}
    top = {name.partition(".")[0] for name in imported}
    own = {*sys.stdlib_module_names, "vimto", "gdb", "compression"}  # gdb's Python, Python 3.14's
    used = {"backports.zstd" if name == "backports" else name for name in top - own}
    assert used == declared


def test_nothing_slow_is_imported_before_qemu_is_started() -> None:
    code = (
        f"import sys; sys.path.insert(0, {str(ROOT)!r})\n"
        "import vimto.__main__, vimto.qemu.find, vimto.qemu.process\n"
        "print(' '.join(sys.modules))"
    )
    words = [sys.executable, "-I", "-S", "-c", code]
    done = subprocess.run(words, capture_output=True, text=True, check=True)
    slow = {"collections", "contextlib", "enum", "functools", "json", "re", "signal", "typing"}
    assert slow & set(done.stdout.split()) == set()


def test_the_hot_path_s_imports_are_pinned() -> None:
    code = (
        f"import sys; sys.path.insert(0, {str(ROOT)!r})\n"
        "import vimto.shim\n"
        "vimto.shim.main(['0', '0', '0', '', 'x'])\n"  # there is no such plan
        "import vimto.vm.run\n"  # what it goes on with
        "print(' '.join(sys.modules))"
    )
    words = [sys.executable, "-I", "-S", "-c", code]
    done = subprocess.run(words, capture_output=True, text=True, check=True)
    loaded = done.stdout.split()
    ours = {name for name in loaded if name.startswith("vimto.")}
    assert "vimto.shim" in ours, done.stderr
    assert {name for name in ours if row_of(name) not in HOT_PACKAGES} == set()
    rooms = {
        room: {name.rpartition(".")[2] for name in ours if row_of(name) == room}
        for room in ("cache", "plan")
    }
    assert rooms["cache"] == {"cache", "digest", "entry", "snapshots", "verdicts"}
    assert rooms["plan"] == {"plan", "shares", "views"}  # what was settled, not how
    top = {name.partition(".")[0] for name in loaded} - {"vimto"}
    private = {name for name in top if name.startswith("_")}
    # These belong to the interpreter's own start; from 3.13 on `-c` keeps its source in linecache.
    own = {"builtins", "linecache", "marshal", "posix", "zipimport"}
    assert top - private - set(HOT.split()) - own == set()


def test_finding_a_kernel_that_is_here_is_light() -> None:
    # Each run finds one. What fetches, unpacks and resolves takes 50 ms to import.
    code = "import sys, vimto.plan.kernels; print(*sys.modules)"
    words = [
        sys.executable,
        "-I",
        "-S",
        "-c",
        f"import sys; sys.path[:0] = [{str(ROOT)!r}]\n{code}",
    ]
    done = subprocess.run(words, capture_output=True, text=True, check=True)
    loaded = set(done.stdout.split())
    assert "vimto.kernel.packages" in loaded
    heavy = {"vimto.kernel.apt", "vimto.kernel.boot", "vimto.oci.pull", "vimto.plan.initramfs"}
    assert not loaded & {*heavy, "tarfile", "dataclasses", "tempfile", "sh", "argparse"}
