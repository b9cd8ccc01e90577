"""vimto, the host and the configuration: what a report of a fault begins with."""

import os
import platform
from collections.abc import Iterable, Mapping
from pathlib import Path

from vimto import __version__, version
from vimto.config import Config
from vimto.health.finding import Finding, good

# What container engines leave in the containers that they make.
_MARKS = {"run/.containerenv": "podman", ".dockerenv": "docker"}
_SERVICES = {"GITHUB_ACTIONS": "GitHub", "GITLAB_CI": "GitLab", "CI": "some CI"}
_NAMESPACE = "user namespace"
_WHOLE = ["0", "0", "4294967295"]


def check_vimto(config: Config) -> Iterable[Finding]:
    """Name this vimto, and the Python that it runs in."""
    python, commit = platform.python_version(), version.find_commit()
    place = Path(__file__).parents[1]
    yield good(
        "vimto",
        f"{version.describe()}, Python {python}, {place}",
        version=__version__,
        commit=commit.digest if commit else "",
        modified=bool(commit and commit.modified),
        python=python,
        place=str(place),
    )


def check_host(config: Config) -> Iterable[Finding]:
    """Name the host's kernel and distribution, and say what this process is in."""
    host = platform.uname()
    name = distribution()
    container, service = find_container(), find_service()
    user = "root" if os.geteuid() == 0 else f"user {os.geteuid()}"
    inside = container if container in ("", _NAMESPACE) else f"container ({container})"
    parts = (
        f"Linux {host.release} {host.machine}",
        name,
        inside and f"in a {inside}",
        service and f"runner of {service}",
        user,
    )
    yield good(
        "host",
        ", ".join(filter(None, parts)),
        kernel=host.release,
        machine=host.machine,
        distribution=name,
        container=container,
        ci=service,
        uid=os.geteuid(),
    )


def distribution() -> str:
    """Return the distribution's name for people (os-release(5)), "" where it has none."""
    try:
        return platform.freedesktop_os_release().get("PRETTY_NAME", "")
    except OSError:
        return ""


def find_container(root: Path = Path("/"), environ: Mapping[str, str] | None = None) -> str:
    """Return what kind of container this process is in, "" for none that shows."""
    environ = os.environ if environ is None else environ
    kind = environ.get("container", "")  # engines name themselves so
    try:
        kind = kind or (root / "run/systemd/container").read_text("utf-8", "replace").strip()
    except OSError:
        pass
    kind = kind or next((name for mark, name in _MARKS.items() if (root / mark).exists()), "")
    if "KUBERNETES_SERVICE_HOST" in environ:
        kind = kind or "kubernetes"
    return kind or (_NAMESPACE if _is_mapped(root) else "")


def _is_mapped(root: Path) -> bool:
    try:
        return (root / "proc/self/uid_map").read_text().split() not in ([], _WHOLE)
    except OSError:
        return False


def find_service(environ: Mapping[str, str] | None = None) -> str:
    """Return whose CI this process runs for, "" for nobody's."""
    environ = os.environ if environ is None else environ
    return next((name for variable, name in _SERVICES.items() if environ.get(variable)), "")


def check_files(config: Config) -> Iterable[Finding]:
    """Name the configuration files; that they can be used has been seen already."""
    files = [str(path) for path in (config.user_file, config.file) if path]
    yield good("config", ", ".join(files) or "no file; defaults", files=files)
