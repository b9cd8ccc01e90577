"""The action and the workflows of docs/ci.md, as data: for tests that read or run them."""

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import yaml

ROOT = Path(__file__).parents[1]
PAGE = ROOT / "docs/ci.md"
ACTION = ROOT / "hack/action"


def read_action() -> Any:
    """Return the action's file."""
    return yaml.safe_load((ACTION / "action.yml").read_text())


def find_block(beginning: str, kind: str = "yaml") -> str:
    """Return the page's code block of this `kind` that begins so."""
    blocks = re.findall(rf"^```{kind}\n(.*?)^```$", PAGE.read_text(), re.MULTILINE | re.DOTALL)
    (found,) = [block for block in blocks if block.startswith(beginning)]
    assert isinstance(found, str)
    return found


def read_workflow(file: str) -> Any:
    """Return the page's workflow `file`."""
    return yaml.safe_load(find_block(f"# {file}\n"))


def expand(text: str, values: Mapping[str, str]) -> str:
    """Return `text` with GitHub's expressions replaced by the `values` that they name."""
    return re.sub(r"\$\{\{ ([\w.-]+) \}\}", lambda found: values[found[1]], text)


def read_outputs(text: str) -> dict[str, list[str]]:
    """Read `text` as a GitHub runner reads its file of outputs: lines of values by name."""
    found: dict[str, list[str]] = {}
    lines = iter(text.splitlines())
    for line in lines:
        name, mark = line.split("<<")
        found[name] = []
        while (value := next(lines)) != mark:
            found[name].append(value)
    return found
