"""How a chat request of openai's package reaches the server: by aiohttp, with nothing in between.

The package builds headers and reads statuses; merging of addresses, redirects, cookies and streams,
which a chat request has no use for, cost more time than the request itself. Whatever is not a chat
request, and a redirect, goes the package's own way.
"""

import ssl
from collections.abc import Mapping
from typing import Any

import aiohttp
import httpx2
from openai import DefaultAioHttpClient

DIRECT = "direct"  # in a request: it goes the short way
IDLE = 5.0  # s that an open connection waits for its next request, as in httpx2


class ChatClient(DefaultAioHttpClient):
    """An http client for openai's package that has a short way to one address.

    Raises httpx2's exceptions, which the package turns into its own.
    """

    def __init__(self, address: str, *, timeout: float) -> None:
        # made before the first request has its place: reading certificates holds up everybody
        self._ssl = httpx2.create_ssl_context()
        super().__init__(timeout=timeout, verify=self._ssl)
        self._address = address
        self._url = httpx2.URL(address)  # parsed once
        self._session: aiohttp.ClientSession | None = None

    def build_request(self, method: str, url: Any, **parts: Any) -> httpx2.Request:
        """Return a request; for the one address, of the headers and the content as they are."""
        if method.upper() != "POST" or url != self._address:
            return super().build_request(method, url, **parts)
        return httpx2.Request(
            "POST",
            self._url,
            headers=parts["headers"],
            content=parts["content"],
            extensions={DIRECT: True},
        )

    async def send(self, request: httpx2.Request, **how: Any) -> httpx2.Response:
        """Send a request; the whole reply has come when this returns."""
        if DIRECT not in request.extensions:
            return await super().send(request, **how)
        response = await self._post(request)
        return await super().send(request, **how) if response.is_redirect else response

    async def _post(self, request: httpx2.Request) -> httpx2.Response:
        if self._session is None:
            self._session = _session(self._ssl)
        headers: Mapping[str, str] = request.headers
        try:
            async with self._session.post(
                self._address, data=request.content, headers=headers, allow_redirects=False
            ) as reply:
                content = await reply.read()
        except TimeoutError as error:
            raise httpx2.ReadTimeout("the server took too long") from error
        except (aiohttp.ClientError, OSError) as error:
            raise httpx2.ReadError(type(error).__name__) from error
        return httpx2.Response(
            reply.status, headers=reply.raw_headers, content=content, request=request
        )

    async def aclose(self) -> None:
        """Close all connections."""
        if self._session is not None:
            await self._session.close()
        await super().aclose()


def _session(context: ssl.SSLContext) -> aiohttp.ClientSession:
    return aiohttp.ClientSession(
        connector=aiohttp.TCPConnector(ssl=context, limit=0, keepalive_timeout=IDLE),
        cookie_jar=aiohttp.DummyCookieJar(),
        timeout=aiohttp.ClientTimeout(),  # the judge's own covers every try
        auto_decompress=False,  # httpx2's response does
    )
