"""What a repository in a registry has: its tags, and of each the size and the platforms."""

import re
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import NamedTuple
from urllib.parse import urljoin, urlsplit

from vimto.errors import ImageError
from vimto.kernel.reference import is_tag
from vimto.oci.manifest import (
    MANIFEST_LIMIT,
    Descriptor,
    Index,
    Manifest,
    config_platform,
    digest_of,
    host_platform,
    is_platform,
    parse_json,
    parse_manifest,
)
from vimto.oci.registry import Registry, UnreachableError

# Docker's number for layers is three; these requests are small.
_PARALLEL = 6
_PAGE = 1000
_MOST_TAGS = 100_000
# Signatures and the like, which belong to images: cosign's naming.
_ATTACHED = re.compile(r"sha256-[0-9a-f]{64}(\..*)?")
_LINK = re.compile(r'<([^<>]*)>\s*;\s*rel="?next"?')


class RemoteImage(NamedTuple):
    """What a tag means now: `platforms` as in `linux/amd64`, those of an index all.

    `digest` is what a registry calls it by; `size` is in bytes to download, for this host's
    platform if there is one of it, else None. No platforms: it is something else than an image.
    """

    tag: str
    digest: str = ""
    size: int | None = None
    platforms: tuple[str, ...] = ()


def list_tags(registry: Registry) -> list[str]:
    """Return all tags of a registry's repository, by version: see `by_version`.

    Raises `ImageError`.
    """
    what = f"the list of tags of `{registry.reference.registry}/{registry.reference.repository}`"
    base = f"{registry.prefix}://{registry.reference.api_host}"
    url = f"{base}/v2/{registry.reference.repository}/tags/list?n={_PAGE}"
    found: dict[str, None] = {}
    while url:
        response = registry.do_request(url)
        with response:
            registry.check(response, what)
            value = parse_json(registry.read(response, MANIFEST_LIMIT, what), what)
            after = _LINK.search(response.headers.get("Link", ""))
        tags = value.get("tags") or []
        if not isinstance(tags, list):
            raise ImageError(f"{what} is malformed")
        new = [tag for tag in tags if isinstance(tag, str) and tag not in found]
        found |= dict.fromkeys(new)
        if len(found) > _MOST_TAGS:
            raise ImageError(f"{what} is endless")
        # A page without anything new would be followed by itself for ever.
        url = urljoin(url, after[1]) if after and new else ""
        if url and urlsplit(url)[:2] != urlsplit(base)[:2]:
            raise ImageError(f"{what} goes on at another host, `{url[:200]}`")
    named = (tag for tag in found if is_tag(tag) and not _ATTACHED.fullmatch(tag))
    return sorted(named, key=by_version)


def by_version(tag: str) -> tuple[object, ...]:
    """Return what to sort tags by: words first, then versions, the newest last.

    Numbers count as such; a release stands after its candidates and before what is built on it.
    """
    version = tag[1:] if re.match(r"v\d", tag) else tag
    parts: list[tuple[int, int, str]] = []
    for number, text in re.findall(r"([0-9]+)|([^0-9]+)", version):
        candidate = re.match(r"[-~.]?(rc|alpha|beta|pre)", text)
        parts.append((2, int(number), "") if number else (0 if candidate else 3, 0, text))
    return (version[:1].isdigit(), *parts, (1, 0, ""))


def describe_tags(registry: Registry, tags: Sequence[str]) -> Iterator[RemoteImage]:
    """Yield what each of `tags` means, in that order, as the registry answers.

    Raises `ImageError` when it does no longer.
    """
    pool = ThreadPoolExecutor(_PARALLEL)
    try:
        for found in [pool.submit(_describe, registry, tag) for tag in tags]:
            yield found.result()
    finally:  # whoever looks at the first ones only waits for no others
        registry.stop.set()
        pool.shutdown(wait=False, cancel_futures=True)


def _describe(registry: Registry, tag: str) -> RemoteImage:
    what = f"`{registry.reference.repository}:{tag}`"
    try:
        data = registry.manifest(tag)
        found = parse_manifest(data, what)
        if isinstance(found, Index):
            size, platforms = _of_index(registry, found, what)
        else:
            size, platforms = found.size, (_platform(registry, found, what),)
    except UnreachableError:
        raise
    except ImageError:
        return RemoteImage(tag)
    return RemoteImage(tag, digest_of(data), size, platforms)


def _of_index(registry: Registry, index: Index, what: str) -> tuple[int | None, tuple[str, ...]]:
    images = [entry for entry in index.entries if entry[0] != "unknown/unknown"]
    size = None
    for name, descriptor in images:
        if is_platform(name, host_platform()):
            manifest = parse_manifest(registry.manifest(descriptor.digest), what)
            size = manifest.size if isinstance(manifest, Manifest) else None
            break
    return size, tuple(dict.fromkeys(name or "unknown" for name, _ in images))


def _platform(registry: Registry, manifest: Manifest, what: str) -> str:
    data = _read_blob(registry, manifest.config, what)
    return config_platform(manifest.config, data, what) or host_platform()


def _read_blob(registry: Registry, blob: Descriptor, what: str) -> bytes:
    response = registry.get_blob_at(blob.digest, 0)
    with response:
        registry.check(response, what)
        data = registry.read(response, MANIFEST_LIMIT, what)
    if digest_of(data) != blob.digest:
        raise ImageError(f"the configuration of {what} is damaged")
    return data
