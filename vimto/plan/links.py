"""Links that are kept: go starts its tools through the guest program, which knows some."""

import contextlib
import os
from collections.abc import Iterator, Sequence

from vimto import console, quoting
from vimto.cache import entry
from vimto.cache.links import prune_links
from vimto.config import Config
from vimto.errors import CacheError, VimtoError
from vimto.go.args import GoFlag, is_switched_on
from vimto.go.tool import GoEnv
from vimto.plan.agent import build_agent, find_agent

# What makes the guest program the wrapper of go's tools: guest/internal/linkcache.
_ARGUMENT = "link-cache"


@contextlib.contextmanager
def kept_links(config: Config, env: GoEnv, flags: Sequence[GoFlag]) -> Iterator[list[str]]:
    """Give the flag for go that makes it look for each link in the cache; none where it must not.

    `flags` are the user's for go, those in GOFLAGS among them: a `-toolexec` wins, and `-a` wants
    everything made anew. Without trouble for anybody: what cannot be kept is linked. While the
    context lasts the program stays in the cache; then what was not used for long goes.
    """
    own = any(flag.name == "toolexec" for flag in flags) or is_switched_on(flags, "a")
    if own or not config.link_cache or not config.link_limit:
        yield []
        return
    links = os.fspath(config.cache_dir / "links")
    with contextlib.ExitStack() as stack:
        try:
            program = _find_program(config, env, stack)
            if not os.path.isdir(links):
                entry.make_directory(links)
            found = [f"-toolexec={quoting.quote_go([program, _ARGUMENT, links])}"]
        except (OSError, VimtoError, ValueError) as exc:
            console.debug(f"links are not kept: {exc}")
            found = []
        yield found
        if found:
            with contextlib.suppress(OSError, CacheError):
                prune_links(links, min(config.link_limit, config.cache_limit))


def _find_program(config: Config, env: GoEnv, stack: contextlib.ExitStack) -> str:
    """Return the guest program for the host itself; built, if need be, whatever guests are."""
    cache, arch = config.cache_dir, env.gohostarch
    agent = find_agent(cache=cache, arch=arch) or build_agent(cache=cache, arch=arch)
    stack.callback(os.close, entry.hold(agent.path))
    if not os.access(agent.path, os.X_OK):  # on a file system without programs
        raise PermissionError(13, "it cannot be executed", os.fspath(agent.path))
    return os.path.abspath(agent.path)
