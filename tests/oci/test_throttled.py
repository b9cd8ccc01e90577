"""A registry that says 429: it is asked again within bounds, and the user told what helps."""

from pathlib import Path

import pytest

from tests.oci.servers import Proxy, Reply, Request
from tests.oci.test_pull import basic, login
from tests.unit.oci_parts import ImageConfig, fetch_image
from vimto.errors import ImageError


@pytest.mark.parametrize("retry_after", ["", "0", "7200", "nonsense"])
@pytest.mark.parametrize("who", ["the registry", "the token server"])
def test_too_many_requests(
    who: str,
    retry_after: str,
    hurt: Proxy,
    settings: ImageConfig,
    no_credentials: Path,
) -> None:
    """docker.io's limit for those who are not logged in lasts for hours."""

    name = f"{hurt.host}/limited:1"

    def refuse(request: Request, reply: Reply) -> None:
        if who == "the registry" or "/token" in request.path:
            reply.status, reply.headers["Retry-After"] = 429, retry_after
            reply.body = b'{"errors":[{"message":"You have reached your pull rate limit."}]}'
        else:
            reply.status = 401
            reply.headers["WWW-Authenticate"] = f'Bearer realm="http://{hurt.host}/token"'

    hurt.fault = refuse
    with pytest.raises(ImageError, match="says 429, too many requests") as caught:
        fetch_image(name, settings)
    assert caught.value.lines == ("You have reached your pull rate limit.",)
    assert f"`docker login {hurt.host}`" in caught.value.hint
    asked = len(hurt.seen("/token" if who == "the token server" else "/"))
    if retry_after == "7200":  # nobody sits through that
        assert asked == 1 and "asks to wait 120 min" in caught.value.message
    else:
        assert asked == 4 and "wait" not in caught.value.message
    # Whoever is logged in has no use for that hint.
    login(no_credentials, hurt.host, auth=basic("user:pass"))
    with pytest.raises(ImageError, match="too many") as caught:
        fetch_image(name, settings)
    assert "config.json` has been reached" in caught.value.hint
