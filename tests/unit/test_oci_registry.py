import ast
from pathlib import Path

import oras.auth
import oras.provider
import pytest

from vimto.kernel.reference import RegistryReference, parse_image
from vimto.oci.registry import Registry

ROOT = Path(__file__).parents[2]


@pytest.mark.parametrize("repository", ["x", "a/b/c.d", "my.org/x", "localhost/x"])
def test_the_repository_is_found_at_its_host(repository: str) -> None:
    reference = parse_image(f"localhost:5000/{repository}:1")
    assert isinstance(reference, RegistryReference)
    with Registry(reference, environ={"HOME": "/nonexistent"}) as registry:
        url = registry.container().manifest_url("1")
    assert url == f"localhost:5000/v2/{repository}/manifests/1"


@pytest.mark.parametrize("path", ["vimto/oci/registry.py", "hack/kernel-image"])
def test_nothing_private_of_oras_is_used(path: str) -> None:
    """A release of it may rename them."""
    theirs = {"__wrapped__", *vars(oras.provider.Registry("x")), *vars(oras.auth.TokenAuth())}
    theirs |= {*dir(oras.provider.Registry), *dir(oras.auth.TokenAuth)} - set(dir(object))
    tree = ast.parse((ROOT / path).read_text())
    used = {node.attr for node in ast.walk(tree) if isinstance(node, ast.Attribute)}
    assert {name for name in used & theirs if name.startswith("_")} == set()


@pytest.mark.parametrize(("insecure", "kept"), [((), True), (("ghcr.io",), False)])
def test_githubs_token_is_not_for_plain_http(
    insecure: tuple[str, ...], kept: bool, tmp_path: Path
) -> None:
    reference = parse_image("ghcr.io/x/y:1")
    assert isinstance(reference, RegistryReference)
    environ = {"HOME": str(tmp_path), "GITHUB_TOKEN": "secret"}
    with Registry(reference, insecure=insecure, environ=environ) as registry:
        assert (registry.credentials is not None) == kept
