"""hack/action and docs/ci.md: what they say of each other, and what a shell says of them."""

import re
import subprocess
from pathlib import Path

import pytest

from tests.conftest import need
from tests.workflows import ACTION, PAGE, ROOT, find_block, read_action, read_workflow
from vimto.commands import setup_ci

STEPS = read_action()["runs"]["steps"]
SCRIPTS = [step for step in STEPS if "run" in step]


@pytest.mark.parametrize("step", SCRIPTS, ids=lambda step: step["name"])
def test_a_step_s_script(step: dict[str, str], tmp_path: Path) -> None:
    assert step["shell"] == "bash"
    assert "${{" not in step["run"], "an expression in a script is a way in for its value"
    need("shellcheck")
    script = tmp_path / "step"
    script.write_text(f"#!/bin/bash\n{step['run']}")
    done = subprocess.run(["shellcheck", script], capture_output=True, text=True, check=False)
    assert done.stdout == ""


def test_expressions_name_what_there_is() -> None:
    known = {f"inputs.{name}" for name in read_action()["inputs"]}
    known |= {f"steps.fit.outputs.{name}" for name in _outputs()}
    known.add("steps.cache.outputs.cache-hit")
    text = (ACTION / "action.yml").read_text()
    used = set(re.findall(r"\$\{\{ (.*?) \}\}", text))
    used |= set(re.findall(r"^ +if: ([\w.]+) == 'true'$", text, re.MULTILINE))
    assert used <= known
    assert known - used == {f"steps.fit.outputs.{name}" for name in ("cache-dir", "snapshots")}


def _outputs() -> list[str]:
    return re.findall(r"^    ([\w-]+)  ", setup_ci.__doc__ or "", re.MULTILINE)


def test_the_page_has_the_action_s_inputs_and_their_defaults() -> None:
    rows = re.findall(r"^\| `([\w-]+)` \| (.*?) \|", PAGE.read_text(), re.MULTILINE)
    inputs = read_action()["inputs"]
    assert [name for name, _ in rows] == list(inputs)
    for name, default in rows:
        assert inputs[name]["default"] == (default[1:-1] if default[0] == "`" else "")


def test_the_page_s_workflow_for_github() -> None:
    (job,) = read_workflow(".github/workflows/test.yml")["jobs"].values()
    (ours,) = [step for step in job["steps"] if "/vimto/" in step.get("uses", "")]
    place = ours["uses"].partition("@")[0].split("/", 2)[2]
    assert (ROOT / place / "action.yml").exists()
    assert ours.get("with", {}).keys() <= read_action()["inputs"].keys()
    order = [step.get("uses", "").partition("@")[0] for step in job["steps"]]
    assert order.index("actions/setup-go") < job["steps"].index(ours)  # its key has Go's version


def test_the_page_s_scripts(tmp_path: Path) -> None:
    job = read_workflow(".gitlab-ci.yml")["test"]
    lines = [line for part in ("before_script", "script", "after_script") for line in job[part]]
    need("shellcheck")
    texts = ["\n".join(lines), find_block("export", "sh"), find_block("docker", "sh")]
    for number, text in enumerate(texts):
        script = tmp_path / str(number)
        script.write_text(f"#!/bin/sh\n{text}\n")
        words = ["shellcheck", "--exclude=SC2154", script]  # variables of the job
        done = subprocess.run(words, capture_output=True, text=True, check=False)
        assert done.stdout == ""
