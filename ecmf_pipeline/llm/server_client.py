"""The HTTP client of a server: no redirects, and replies of a limited size."""

from __future__ import annotations

from collections.abc import AsyncIterator
from urllib.parse import urljoin, urlsplit

import openai
from httpx2 import AsyncByteStream, Response

from ecmf_pipeline.core.errors import ModelError, RequestRefused

MAX_REPLY_BYTES = 8 * 2**20
"""Maximum decoded bytes of a reply. A long answer with log-probabilities takes less than one million."""


def open_client(base_url: str, key: str, timeout: float) -> openai.AsyncOpenAI:
    """Return a client without retries. Its requests raise the errors of `check_reply`."""
    http_client = openai.DefaultAsyncHttpxClient(
        base_url=base_url, timeout=timeout, follow_redirects=False, event_hooks={"response": [check_reply]}
    )
    return openai.AsyncOpenAI(
        base_url=base_url, api_key=key or "none", max_retries=0, timeout=timeout, http_client=http_client
    )


async def check_reply(response: Response) -> None:
    """Refuse a redirect, and limit the body of any other response before it is read.

    A redirect is not followed even on the same host: it would send texts and frames of the corpus, and perhaps the
    key, to an address that is not in params.yaml.

    Raises:
        ModelError: If the response is a redirect.
        RequestRefused: While the body is read, if it has more than `MAX_REPLY_BYTES` decoded bytes.
    """
    if response.has_redirect_location:
        url = str(response.request.url)
        raise ModelError(
            f"the server at {_address(url)} redirects to {_address(urljoin(url, response.headers['location']))}",
            "set llm.server.base_url to the address of the server itself, without redirects",
        )
    response.stream = _LimitedBody(response)
    response.headers.pop("content-encoding", None)  # the body is decoded already


def _address(url: str) -> str:
    """Return scheme, host and port of a URL, without user name, password and path."""
    try:
        parts = urlsplit(url)
        port = f":{parts.port}" if parts.port else ""
    except ValueError:
        return "an invalid address"
    return f"{parts.scheme}://{parts.hostname}{port}"


class _LimitedBody(AsyncByteStream):
    """The decoded body of a response."""

    def __init__(self, response: Response) -> None:
        self._reply = Response(response.status_code, headers=response.headers, stream=response.stream)

    async def __aiter__(self) -> AsyncIterator[bytes]:
        size = 0
        async for part in self._reply.aiter_bytes():  # decoded in parts of at most 1 MB
            size += len(part)
            if size > MAX_REPLY_BYTES:
                raise RequestRefused(f"the reply of the server takes more than {MAX_REPLY_BYTES // 2**20} MB")
            yield part

    async def aclose(self) -> None:
        await self._reply.aclose()
