"""How a chat request of openai's package reaches the server: by aiohttp, with nothing in between.

The package builds headers and reads statuses; merging of addresses, redirects, cookies and streams,
which a chat request has no use for, cost more time than the request itself. Whatever is not a chat
request, and a redirect, goes the package's own way.
"""

from typing import Any

import aiohttp
import httpx2
from openai import DefaultAioHttpClient

DIRECT = "direct"  # in a request: it goes the short way, with this content
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
        self._given: list[tuple[str, str]] = []
        self._headers = httpx2.Headers()
        self._session: aiohttp.ClientSession | None = None

    def build_request(self, method: str, url: Any, **parts: Any) -> httpx2.Request:
        """Return a request; for the one address, of the headers and the content as they are."""
        if method.upper() != "POST" or url != self._address:
            return super().build_request(method, url, **parts)
        if self._given != parts["headers"]:  # which are the same for every request
            self._given = parts["headers"]
            self._headers = httpx2.Headers(self._given)
        return httpx2.Request(
            "POST",
            self._url,
            headers=self._headers,
            stream=httpx2.ByteStream(parts["content"]),
            extensions={DIRECT: parts["content"]},
        )

    async def send(self, request: httpx2.Request, **how: Any) -> httpx2.Response:
        """Send a request; the whole reply has come when this returns."""
        content = request.extensions.get(DIRECT)
        if content is None:
            return await super().send(request, **how)
        response = await self._post(request, content)
        if not response.is_redirect:
            return response
        headers = request.headers
        whole = super().build_request("POST", self._url, headers=headers, content=content)
        return await super().send(whole, **how)

    async def _post(self, request: httpx2.Request, content: bytes) -> httpx2.Response:
        if self._session is None:
            self._session = self._open()
        try:
            async with self._session.post(
                self._address,
                data=content,
                headers=request.headers.multi_items(),
                allow_redirects=False,
            ) as reply:
                came = await reply.read()
        except TimeoutError as error:
            raise httpx2.ReadTimeout("the server took too long") from error
        except (aiohttp.ClientError, OSError) as error:
            raise httpx2.ReadError(type(error).__name__) from error
        return httpx2.Response(
            reply.status, headers=reply.raw_headers, content=came, request=request
        )

    def _open(self) -> aiohttp.ClientSession:
        return aiohttp.ClientSession(
            connector=aiohttp.TCPConnector(ssl=self._ssl, limit=0, keepalive_timeout=IDLE),
            headers={"Accept-Encoding": "gzip, deflate"},  # what httpx2 unpacks everywhere
            cookie_jar=aiohttp.DummyCookieJar(),
            timeout=aiohttp.ClientTimeout(),  # the judge's own covers every try
            auto_decompress=False,  # httpx2's response does
        )

    async def aclose(self) -> None:
        """Close all connections."""
        if self._session is not None:
            await self._session.close()
        await super().aclose()
