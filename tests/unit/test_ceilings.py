"""Nothing grows past what one can take in: modules, functions, parameter lists."""

import ast
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
PYTHON = sorted(
    [*ROOT.glob("vimto/**/*.py"), *ROOT.glob("hack/**/*.py"), *ROOT.glob("tests/**/*.py")]
)
GO = sorted(ROOT.glob("guest/**/*.go"))


def ident(path: Path) -> str:
    return str(path.relative_to(ROOT))


@pytest.mark.parametrize("path", [*PYTHON, *GO], ids=ident)
def test_modules(path: Path) -> None:
    lines = len(path.read_text().splitlines())
    assert lines <= 500, f"{lines} lines: which two things does it do?"


@pytest.mark.parametrize("path", PYTHON, ids=ident)
def test_functions(path: Path) -> None:
    for node in ast.walk(ast.parse(path.read_text())):
        if not isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef)):
            continue
        lines = (node.end_lineno or node.lineno) - node.lineno + 1
        assert lines <= 60, f"{node.name} has {lines} lines"
        names = [
            arg.arg for arg in (*node.args.posonlyargs, *node.args.args, *node.args.kwonlyargs)
        ]
        count = len([name for name in names if name not in ("self", "cls")])
        assert count <= 6, f"{node.name} has {count} parameters: is a type missing?"
