"""Kernels from the distribution's own packages, downloaded without installing them.

The machine's apt does the work (its mirrors, its proxies, its keys) with state of its own below
the cache directory, so that it needs no root and no earlier `apt-get update`, and leaves the
machine's own lists alone:

    apt/state/SUITE/          lists, configuration, downloads under way; one user at a time (lock)
"""

import contextlib
import math
import os
import platform
import re
import shutil
import tempfile
import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

from vimto import console
from vimto.cache import entry
from vimto.errors import CommandError, KernelError
from vimto.kernel import deb, sources
from vimto.kernel.packages import (
    DAY,
    UnpackedPackage,
    debug_directory,
    directory_name,
    find_package,
    note_package,
)
from vimto.kernel.reference import AptKernel, PinnedPackage
from vimto.process import proc

# A second reference to the same suite needs no second look at the mirror.
_LISTS_FRESH = 600.0

_DOWNLOADS = "download-"

# The packages that a kernel is made of. Debian's image package holds everything up to 6.x; 7.x
# and Ubuntu split it. `linux-base`, without a dash behind it, is something else.
_PARTS = re.compile(r"linux-(image|modules|binary|base)-[a-z0-9+.-]+")


@dataclass(frozen=True, kw_only=True)
class Package:
    """One entry of the archive's index; `size` in bytes."""

    name: str
    version: str
    architecture: str
    depends: tuple[str, ...]
    size: int
    sha256: str

    def __str__(self) -> str:
        return directory_name(self.name, self.version, self.architecture)

    @property
    def pin(self) -> PinnedPackage:
        """The package as a lock has it."""
        return PinnedPackage(self.name, self.version, self.architecture, self.sha256)


def fetch_package(reference: AptKernel, *, cache: Path, fresh: float = DAY) -> UnpackedPackage:
    """Return the unpacked package of `reference`, downloading what is not there.

    Many processes may ask at once; one works, the others wait. When the archive cannot be
    reached, what was found earlier serves on, with a warning. Raises `KernelError` without apt,
    for an unknown package or suite, and for a package that holds no kernel.
    """
    apt = Apt(reference.release, cache)
    with apt.locked():
        found = find_package(reference, cache=cache, fresh=fresh)
        if found:
            return found
        try:
            found = _fetch(apt, reference, cache)
        except KernelError as exc:
            stale = find_package(reference, cache=cache, fresh=math.inf)
            if not stale:
                raise
            console.warn(f"`{reference}` may have a newer version than the one here: {exc.message}")
            return stale
        note_package(found, reference, cache)
    return found


def look_up_package(reference: AptKernel, *, cache: Path, fresh: float = DAY) -> UnpackedPackage:
    """Return what `reference` means, and note it; nothing but lists is downloaded.

    So its directory need not be there: once it comes from elsewhere, as from a CI's cache,
    `find_package` finds it. Raises `KernelError` as `fetch_package` does.
    """
    apt = Apt(reference.release, cache)
    with apt.locked():
        found = find_package(reference, cache=cache, fresh=fresh)
        if not found:
            found, _ = _look_up(apt, reference, cache)
            note_package(found, reference, cache)
    return found


def pin_package(reference: AptKernel, *, cache: Path) -> AptKernel:
    """Return `reference` with the packages that the archive has for it now; only lists are fetched.

    Raises `KernelError` as `fetch_package` does, and for an archive without checksums.
    """
    apt = Apt(reference.release, cache)
    with apt.locked():
        _, parts = _look_up(apt, reference._replace(pinned=()), cache)
        # Without the metapackage, which holds no files and is the first to go from an archive.
        image = AptKernel(package=parts[0].name, version=parts[0].version)
        pinned = tuple(part.pin for part in apt.parts(image))
    if not all(package.sha256 for package in pinned):
        raise KernelError(f"the archive has no checksum of `{image}`")
    return reference._replace(pinned=pinned)


def fetch_debug(package: UnpackedPackage, reference: AptKernel, *, cache: Path) -> Path:
    """Return the directory of `package`'s debug information, downloading it.

    Of the debug package (0.3 to 1.2 GB) `vmlinux` is kept, and each module's file, compressed:
    6.1's would take 5 GB. Raises `KernelError` as `fetch_package` does.
    """
    apt = Apt(reference.release, cache)
    with apt.locked():
        directory = debug_directory(package, cache)
        # An earlier version kept `vmlinux` alone.
        marker = directory / "with-modules"
        if directory.is_dir() and not marker.exists():
            entry.remove(directory)

        def make() -> None:
            apt.update()
            found = apt.show(f"{package.package}-dbg", package.version)
            with entry.new_directory(directory) as temporary:
                if not _unpack(apt, found, [found], temporary):
                    raise KernelError(f"the package `{found.name}` holds no `vmlinux`")
                (temporary / marker.name).touch()

        entry.make_once(directory, make, waiting=f"another vimto unpacks `{directory.name}`")
        return directory


def _look_up(
    apt: "Apt", reference: AptKernel, cache: Path
) -> tuple[UnpackedPackage, list[Package]]:
    """Return where the package is, or would be, and what it is made of: the one it is named by
    comes first."""
    apt.update()
    parts = list(_pinned_parts(apt, reference) if reference.pinned else apt.parts(reference))
    if apt.complaints:
        # Another vendor's archive may be down for weeks: no reason to ask again at every run.
        console.warn(f"apt's lists could not all be brought up to date: {apt.complaints[0]}")
    # A metapackage leads to the image package proper, always by a name that goes on longer.
    image = next(
        (part for part in reversed(parts) if part.name.startswith("linux-image-")), parts[0]
    )
    found = UnpackedPackage(cache / "apt" / str(image), image.name, image.version)
    return found, [image, *(part for part in parts if part is not image)]


def _pinned_parts(apt: "Apt", reference: AptKernel) -> list[Package]:
    image = reference.pinned[0]
    versions = {package.name: package.version for package in reference.pinned}
    hint = "`vimto kernel lock -update` writes what it has now into `.vimto.lock`"
    try:
        wanted = AptKernel(package=image.name, version=image.version)
        parts = list(apt.parts(wanted, versions))
    except KernelError as exc:
        if apt.complaints:  # what it has is not known
            raise KernelError(
                exc.message, hint=f"{exc.hint} If so, {hint}", lines=exc.lines
            ) from exc
        raise KernelError(f"{apt.where} no longer has all of `{reference}`", hint=hint) from exc
    if {part.pin for part in parts} != set(reference.pinned):
        raise KernelError(
            f"what {apt.where} has as `{reference}` is not what was locked", hint=hint
        )
    return parts


def _fetch(apt: "Apt", reference: AptKernel, cache: Path) -> UnpackedPackage:
    found, parts = _look_up(apt, reference, cache)

    def make() -> None:
        with entry.new_directory(found.directory) as temporary:
            _unpack(apt, parts[0], parts, temporary)
            _check_kernel(temporary, parts[0])

    entry.make_once(found.directory, make, waiting=f"another vimto unpacks `{found.package}`")
    return found


def _unpack(apt: "Apt", named: Package, parts: list[Package], into: Path) -> int:
    debug = named.name.endswith("-dbg")
    choose = _choose_debug if debug else _choose_kernel
    size = sum(part.size for part in parts)
    console.note(f"downloading {named.name} ({size / 1e6:.0f} MB)")
    with tempfile.TemporaryDirectory(prefix=_DOWNLOADS, dir=apt.state) as downloads:
        files = apt.download(parts, Path(downloads))
        console.note(f"unpacking {named.name}")
        return sum(deb.extract_deb(file, into, choose) for file in files)


def _choose_kernel(name: str) -> str:
    # Where `/lib` is a link to `usr/lib`, as on every merged system, a `lib` of the package laid
    # over the guest's root would hide the C library.
    if name.startswith("lib/modules/"):
        return f"usr/{name}"
    if name.startswith(("usr/lib/modules/", "boot/vmlinuz", "boot/config")):
        return name
    return ""


def _choose_debug(name: str) -> str:
    base = name.rsplit("/", 1)[-1]
    if base.endswith(".ko"):
        return f"{name}.zst"
    return name if base.startswith("vmlinux") else ""


def _check_kernel(directory: Path, image: Package) -> None:
    images = [*directory.glob("boot/vmlinuz*"), *directory.glob("usr/lib/modules/*/vmlinuz")]
    if not images:
        raise KernelError(
            f"the package `{image.name}` holds no kernel",
            hint="a kernel's package is called linux-image-…, as `apt-cache search` shows",
        )


# With less than this apt cannot keep its lists.
_LEAST_ROOM = 32 << 20


class Apt:
    """The machine's apt with its state in our cache, for one suite (or the machine's own ones)."""

    def __init__(self, suite: str, cache: Path) -> None:
        self.suite = suite
        self.state = cache.absolute() / "apt" / "state" / (self.suite or "own")
        self.complaints: tuple[str, ...] = ()

    @contextlib.contextmanager
    def locked(self) -> Iterator[None]:
        """Be the only one who uses this state meanwhile."""
        with entry.locked(self.state, waiting="another vimto downloads a package"):
            for left in self.state.glob(f"{_DOWNLOADS}*"):  # by one that was killed
                entry.delete(os.fspath(left))
            yield

    def update(self) -> None:
        """Bring the package lists up to date; whatever goes wrong shows in `show`."""
        self.configure()  # each time: the cache may have been moved
        stamp = self.state / "updated"
        if stamp.exists() and abs(time.time() - stamp.stat().st_mtime) < _LISTS_FRESH:
            return
        result = self.run(["apt-get", "-q", "update"])
        text = result.stderr.decode("utf-8", "replace")
        self.complaints = tuple(line for line in text.splitlines() if line[:2] in ("E:", "W:"))
        if result.status == 0 and not self.complaints:
            stamp.touch()

    def show(self, name: str, version: str = "") -> Package:
        """Return the archive's entry for `name`; raises `KernelError` if there is none."""
        query = f"{name}={version}" if version else name
        result = self.run(["apt-cache", "show", "--no-all-versions", query])
        fields = _parse_stanza(result.text)
        if result.status or fields.get("Package") != name:
            raise self._unknown(query)
        return Package(
            name=name,
            version=fields["Version"],
            architecture=fields.get("Architecture", "all"),
            depends=tuple(_dependencies(fields.get("Depends", ""))),
            size=int(fields.get("Size", "0")),
            sha256=fields.get("SHA256", ""),
        )

    def parts(
        self, reference: AptKernel, versions: Mapping[str, str] | None = None
    ) -> Iterator[Package]:
        """Yield the packages that make up the kernel of `reference`, that one first.

        Those it needs have `versions`, else the ones that apt would install.
        """
        known = versions or {}
        todo = [(reference.package, reference.version)]
        seen: set[str] = set()
        while todo:
            name, version = todo.pop(0)
            if name not in seen:
                seen.add(name)
                package = self.show(name, version)
                yield package
                needs = [need for need in package.depends if _PARTS.fullmatch(need)]
                todo += [(need, known.get(need, "")) for need in needs]

    def download(self, parts: list[Package], into: Path) -> list[Path]:
        """Download the packages into `into`; apt checks them against its signed index."""
        names = [f"{part.name}={part.version}" for part in parts]
        result = self.run(["apt-get", "-q", "download", *names], cwd=into)
        files = sorted(into.glob("*.deb"))
        if result.status or len(files) != len(parts):
            lines = result.stderr.decode("utf-8", "replace").splitlines()
            raise KernelError(
                f"`{parts[0].name}` cannot be downloaded",
                lines=tuple(lines[-6:]),
                hint=self._room("is the network up, and does `apt-get update` work?"),
            )
        return files

    @property
    def where(self) -> str:
        """What an error calls the archive."""
        return f"the suite `{self.suite}`" if self.suite else "apt's sources"

    def _unknown(self, query: str) -> KernelError:
        if self.complaints:
            hint = "the package lists could not be fetched: is the network up"
            hint += f", and is `{self.suite}` a suite?" if self.suite else "?"
        else:
            hint = "`apt-cache search ^linux-image-` lists names; `apt:PACKAGE/SUITE` asks another"
        return KernelError(
            f"there is no package `{query}` in {self.where}",
            lines=self.complaints[-6:],
            hint=self._room(hint),
        )

    def _room(self, hint: str) -> str:
        """Return `hint`, unless the disk is full: apt's lists are cut off then, and it asks for
        files that the archive does not have."""
        free = shutil.disk_usage(self.state).free
        return hint if free > _LEAST_ROOM else f"the disk that holds `{self.state}` is full"

    def run(self, argv: list[str], *, cwd: Path | None = None) -> proc.Result:
        """Run one of apt's programs with this configuration; a failure is in the result."""
        env = {**os.environ, "APT_CONFIG": str(self.state / "apt.conf"), "LC_ALL": "C.UTF-8"}
        try:
            return proc.run(argv, env=env, cwd=cwd, check=False, limit=None)
        except CommandError as exc:
            raise KernelError(
                exc.message,
                hint="kernels from packages need Debian's or Ubuntu's apt on this machine; "
                "`-kernel` also takes a file, a directory or an image",
            ) from exc

    def configure(self) -> None:
        """Write apt's configuration; raises `KernelError` where no source leads to the suite."""
        for name in ("lists/partial", "cache/archives/partial", "empty", "sources"):
            entry.make_directory(self.state / name)
        dump = self._own_configuration()
        own = sources.read_sources(_source_files(dump))
        if self.suite:
            own = sources.choose_sources(own, self.suite, codename=_codename())
        (self.state / "sources/vimto.sources").write_text(sources.render_sources(own))
        (self.state / "status").write_text("")
        settings = {
            "Dir::State": self.state,
            "Dir::State::lists": self.state / "lists/",
            # What is installed here is of no matter to a kernel that is not.
            "Dir::State::status": self.state / "status",
            "Dir::Cache": self.state / "cache",
            "Dir::Cache::archives": "archives/",
            "Dir::Etc::main": "/dev/null",
            "Dir::Etc::parts": self.state / "empty",
            "Dir::Etc::sourcelist": "/dev/null",
            "Dir::Etc::sourceparts": self.state / "sources",
            # The cache may lie in a home directory that apt's own user cannot enter.
            "APT::Sandbox::User": "root",
            "Acquire::Languages": "none",
        }
        if self.suite:  # the machine's preferences are about its own suites
            settings["Dir::Etc::preferences"] = "/dev/null"
            settings["Dir::Etc::preferencesparts"] = self.state / "empty"
        lines = [*_kept(dump), *(f'{key} "{value}";' for key, value in settings.items())]
        (self.state / "apt.conf").write_text("\n".join(lines) + "\n")

    def _own_configuration(self) -> list[str]:
        try:
            return proc.run(["apt-config", "dump"]).text.splitlines()
        except CommandError as exc:
            raise KernelError(
                "this machine has no apt, which kernels from packages need",
                hint="`-kernel` also takes a file, a directory or an image",
                lines=exc.lines,
            ) from exc


def _kept(dump: list[str]) -> list[str]:
    # How this machine reaches its archive (proxies, certificates, credentials, compression), but
    # not which other indexes its desktop wants, nor the commands it runs after an update.
    return [
        line
        for line in dump
        if line.startswith(("Acquire::", "APT::Architecture", "Dir::Etc::", "Dir::Bin::"))
        and not line.startswith(("Acquire::IndexTargets", "Acquire::Languages"))
    ]


def _source_files(dump: list[str]) -> list[Path]:
    settings = dict(re.findall(r'^(Dir\S*) "(.*)";$', "\n".join(dump), re.MULTILINE))
    base = Path(settings.get("Dir", "/"), settings.get("Dir::Etc", "etc/apt"))
    parts = base / settings.get("Dir::Etc::sourceparts", "sources.list.d")
    files = [base / settings.get("Dir::Etc::sourcelist", "sources.list")]
    return files + sorted([*parts.glob("*.list"), *parts.glob("*.sources")])


def _codename() -> str:
    try:
        return platform.freedesktop_os_release().get("VERSION_CODENAME", "")
    except OSError:
        return ""


def _parse_stanza(text: str) -> Mapping[str, str]:
    first = text.split("\n\n", 1)[0]
    pairs = (line.partition(": ") for line in first.splitlines() if not line.startswith(" "))
    return {key: value for key, _, value in pairs}


def _dependencies(text: str) -> Iterator[str]:
    # Of alternatives (`a | b`) the first is the archive's choice.
    for group in text.split(","):
        name = group.split("|")[0].split("(")[0].strip().partition(":")[0]
        if name:
            yield name
