"""The action's and the page's scripts, run as a CI runs them, with its cache between two jobs.

What differs here: no step may change this host, so vimto is told to emulate (with KVM it would see
to the rights on /dev/kvm), and lines that install packages are left out; what `actions/cache` and
GitLab do is done by tar.
"""

import glob
import os
import shutil
import subprocess
from collections.abc import Iterator, Mapping
from hashlib import sha256
from pathlib import Path
from typing import Any

import pytest

from tests.conftest import builtin_kernel, need
from tests.vm.conftest import Module, Vimto
from tests.workflows import (
    ACTION,
    expand,
    find_block,
    read_action,
    read_outputs,
    read_workflow,
)

# What a CI without this job's packages would have to install first.
_INSTALLS = ("apt-get ", "python3 -m venv ", "/opt/vimto/bin/pip ", "export PATH=")
_TEST = 'func TestX(t *testing.T) { data, _ := os.ReadFile("/proc/version"); t.Logf("%s", data) }'
_GIB = 1 << 30


@pytest.fixture
def archive(tmp_path: Path) -> "Archive":
    need("apt-get", "dpkg-deb")
    return Archive(tmp_path / "archive")


class Archive:
    """An archive of packages whose one kernel has no modules; `configuration` is apt's."""

    def __init__(self, root: Path) -> None:
        self.configuration = root / "apt.conf"
        self._pool = root / "pool"
        self._pool.mkdir(parents=True)
        (root / "empty").mkdir()
        (root / "list").write_text(f"deb [trusted=yes] file://{self._pool} ./\n")
        self.configuration.write_text(
            f'Dir::Etc::sourcelist "{root}/list";\nDir::Etc::sourceparts "{root}/empty";\n'
        )

    def publish(self, version: str) -> None:
        """Have this version of the package `linux-image-made`, and no other."""
        tree = self._pool.parent / version
        (tree / "DEBIAN").mkdir(parents=True)
        fields = {
            "Package": "linux-image-made",
            "Version": version,
            "Architecture": "amd64",
            "Maintainer": "x",
            "Description": "x",
        }
        text = "".join(f"{name}: {value}\n" for name, value in fields.items())
        (tree / "DEBIAN/control").write_text(text)
        shutil.copytree(builtin_kernel() / "boot", tree / "boot")
        deb = self._pool / f"{version}.deb"
        subprocess.run(["dpkg-deb", "-Zgzip", "--build", tree, deb], check=True)
        data = deb.read_bytes()
        text += f"Filename: ./{deb.name}\nSize: {len(data)}\nSHA256: {sha256(data).hexdigest()}\n"
        (self._pool / "Packages").write_text(text)


class Runner:
    """A runner of GitHub's with a home of its own, which runs one job's steps."""

    def __init__(self, root: Path, vimto: Vimto, archive: Archive) -> None:
        self.temporary, self.workspace = root / "temp", vimto.directory
        self.outputs: dict[str, list[str]] = {}
        self._files = {name: root / name for name in ("OUTPUT", "ENV", "PATH")}
        self.temporary.mkdir(parents=True)
        self.env = {
            **vimto.environment(),
            "HOME": str(root / "home"),
            "APT_CONFIG": str(archive.configuration),
            "RUNNER_TEMP": str(self.temporary),
            "GITHUB_ACTION_PATH": str(ACTION),
            "VIMTO_ACCEL": "tcg",
            **{f"GITHUB_{name}": str(path) for name, path in self._files.items()},
        }
        self.env.pop("VIMTO_CACHE_DIR", None)
        self.env.pop("XDG_CACHE_HOME", None)
        (root / "home").mkdir()

    def step(self, step: Mapping[str, Any], inputs: Mapping[str, str]) -> str:
        """Run a step's script as a runner does, and return what it says."""
        values = {f"inputs.{name}": value for name, value in inputs.items()}
        env = {name: expand(text, values) for name, text in step.get("env", {}).items()}
        directory = self.workspace / expand(step.get("working-directory", "."), values)
        for path in self._files.values():
            path.write_text("")
        script = self.temporary / "script.sh"
        script.write_text(step["run"])
        done = subprocess.run(
            ["bash", "--noprofile", "--norc", "-eo", "pipefail", script],
            cwd=directory,
            env={**self.env, **env},
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            check=False,
        )
        assert done.returncode == 0, done.stdout + done.stderr
        self.outputs |= read_outputs(self._files["OUTPUT"].read_text())
        for line in self._files["ENV"].read_text().splitlines():
            name, _, value = line.partition("=")
            self.env[name] = value
        for line in self._files["PATH"].read_text().splitlines():
            self.env["PATH"] = f"{line}:{self.env['PATH']}"
        return done.stdout + done.stderr

    @property
    def cache(self) -> Path:
        return Path(self.env["VIMTO_CACHE_DIR"])


@pytest.fixture
def made(vimto: Vimto) -> Iterator[Vimto]:
    """A vimto in a module with a test, with this host's cache of go's."""
    Module(vimto.directory).test("x_test.go", _TEST, "os")
    shared = subprocess.run(["go", "env", "GOCACHE"], capture_output=True, text=True, check=True)
    vimto.variables = {"GOCACHE": shared.stdout.strip(), "GOFLAGS": "-buildvcs=false"}
    yield vimto


def has_booted(said: str) -> bool:
    """Say of the commands that `-v` shows whether any machine was booted, or all were restored."""
    assert " -incoming defer" in said
    return " -kernel /" in said


@pytest.mark.slow
def test_github(made: Vimto, archive: Archive, tmp_path: Path) -> None:
    """One job fills the cache; the next one, with another home, boots and fetches nothing."""
    steps = {step["name"]: step for step in read_action()["runs"]["steps"]}
    inputs = {name: row["default"] for name, row in read_action()["inputs"].items()}
    inputs |= {"kernels": "apt:linux-image-made\n", "directory": "."}
    archive.publish("1.0")
    (job,) = read_workflow(".github/workflows/test.yml")["jobs"].values()
    (tests,) = [step for step in job["steps"] if "go test" in step.get("run", "")]
    # go shows what a passing test's machine says, on stdout, with its own `-v` only.
    tests["run"] = tests["run"].replace("go test", "go test -v")
    tests = {**tests, "env": {"VIMTO_KERNEL": "apt:linux-image-made", "VIMTO_VERBOSE": "1"}}

    first = Runner(tmp_path / "first", made, archive)
    first.step(steps["Install vimto"], inputs)
    first.step(steps["Make the runner fit"], inputs)
    assert first.cache == tmp_path / "first/home/.cache/vimto"
    assert first.env["VIMTO_CACHE_LIMIT"] == "2GiB"
    first.step(steps["Make snapshots sparse again"], inputs)  # there are none
    said = first.step(tests, inputs)
    assert has_booted(said) and "downloading linux-image-made" in said
    saved = tmp_path / "saved.tar"
    kept = [path for pattern in first.outputs["path"] for path in sorted(glob.glob(pattern))]
    names = [os.path.relpath(path, first.cache) for path in kept]
    # No `--sparse`, as actions/cache has none.
    subprocess.run(["tar", "-C", first.cache, "-cf", saved, *names], check=True)
    shutil.rmtree(first.cache)

    second = Runner(tmp_path / "second", made, archive)
    second.env["PATH"] = first.env["PATH"]
    second.step(steps["Make the runner fit"], inputs)
    assert second.outputs["key"] == first.outputs["key"]
    subprocess.run(["tar", "-C", second.cache, "-xf", saved], check=True)
    for path in second.cache.rglob("*"):
        os.utime(path, (77, 77), follow_symlinks=False)
    (ram,) = second.cache.glob("snapshots/*/ram")
    assert ram.stat().st_blocks * 512 >= _GIB
    second.step(steps["Make snapshots sparse again"], inputs)
    assert ram.stat().st_blocks * 512 < _GIB / 2
    said = second.step(tests, inputs)
    assert not has_booted(said)
    assert "downloading" not in said and "building the guest program" not in said
    assert [path.name for path in second.cache.glob("snapshots/[!.]*")] == [ram.parent.name]

    archive.publish("2.0")
    third = Runner(tmp_path / "third", made, archive)
    third.env["PATH"] = first.env["PATH"]
    third.step(steps["Make the runner fit"], inputs)
    assert third.outputs["key"] != first.outputs["key"]
    assert third.outputs["restore-keys"] == first.outputs["restore-keys"]


def script_of(text: str) -> str:
    """Return the lines of a documented script that can be run anywhere."""
    lines = [line for line in text.splitlines() if not line.startswith(_INSTALLS)]
    assert len(lines) < len(text.splitlines())
    return "set -e\n" + "\n".join(lines)


@pytest.mark.slow
def test_gitlab_and_a_container(made: Vimto, tmp_path: Path) -> None:
    """The cache is moved out of the project and back; a job with other directories hits."""
    job = read_workflow(".gitlab-ci.yml")["test"]
    main = script_of("\n".join([*job["before_script"], *job["script"]]))
    main = main.replace("go test", "go test -v -x")
    after = "set -e\n" + "\n".join(job["after_script"])
    project = made.directory
    (project / ".vimto.toml").write_text(f'kernel = "{builtin_kernel()}"\n')

    def run(script: str, kept: Path) -> str:
        variables = {**job["variables"], "KEPT": str(kept)}
        env = {name: text.replace("$KEPT", str(kept)) for name, text in variables.items()}
        env |= {"VIMTO_ACCEL": "tcg", "VIMTO_VERBOSE": "1", "HOME": str(tmp_path)}
        env["PATH"] = f"{Path(made.program).parent}:{os.environ['PATH']}"
        done = subprocess.run(
            ["sh", "-c", script],
            cwd=project,
            env={**made.environment(), **env},
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            check=False,
        )
        assert done.returncode == 0, done.stdout + done.stderr
        return done.stdout + done.stderr

    said = run(main, tmp_path / "first")
    assert has_booted(said) and "building the guest program" in said and "/compile " in said
    assert not (project / ".kept").exists()
    run(after, tmp_path / "first")
    assert not (project / ".kept/vimto/local").exists()
    (path,) = job["cache"]["paths"]
    saved = tmp_path / "saved.tar"
    subprocess.run(["tar", "-C", project, "-cf", saved, path], check=True)
    for directory in (tmp_path / "first", project / path):
        subprocess.run(["rm", "-rf", directory], check=True)

    subprocess.run(["tar", "-C", project, "-xf", saved], check=True)
    # As a helper with an open umask unpacks it.
    subprocess.run(["chmod", "-R", "a+rwX", project / path], check=True)
    said = run(main, tmp_path / "second")
    assert not has_booted(said) and "warning: " not in said
    assert "building the guest program" not in said
    assert "/compile " not in said, "go's cache did not come back"
    assert not (project / ".kept").exists()

    # A plain container has the same directory as a volume.
    script = script_of(find_block("export", "sh").replace("/var/tmp/kept", f"{tmp_path}/second"))
    said = run(script.replace("go test", "go test -v -x"), tmp_path / "none")
    assert "/compile " not in said and "building the guest program" not in said
    assert " -incoming defer" in said
