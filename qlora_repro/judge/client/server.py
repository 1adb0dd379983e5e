"""How fast a server may be asked: requests and tokens per minute, and pauses that it asks for.

How a chat request of openai's package reaches the server: by aiohttp, with nothing in between.

The package builds headers and reads statuses; merging of addresses, redirects, cookies and streams,
which a chat request has no use for, cost more time than the request itself. Whatever is not a chat
request, and a redirect, goes the package's own way.

One OpenAI-compatible server: a request is tried until it is answered, or cannot be.

Tried again: 408, 429, 5xx, timeouts, connections that fail or break, bodies that are cut off or no
JSON. Anything else says that the request is wrong, and trying again would not mend it. The key is
read from the environment, goes into the client and nowhere else; no exception of openai's, which
hold the request and its headers, leaves this module.
"""

import asyncio
import email.utils
import json
import random
import time
import urllib.request
from collections.abc import Awaitable, Callable, Mapping
from typing import Any

import aiohttp
import httpx2
from openai import (
    APIConnectionError,
    APIError,
    APIStatusError,
    AsyncOpenAI,
    DefaultAioHttpClient,
    RequestOptions,
)

from qlora_repro.config.schema import JudgeConfig
from qlora_repro.errors import RunError
from qlora_repro.judge.client.request import NO_KEY, read_key

MINUTE = 60.0


class Pace:
    """Spreads requests evenly, so that no minute holds more than the limits."""

    def __init__(self, *, requests: int | None, tokens: int | None) -> None:
        self._per_request = MINUTE / requests if requests else 0.0  # s
        self._per_token = MINUTE / tokens if tokens else 0.0
        self._next = 0.0  # the earliest moment of the next request, on the monotonic clock
        self._paused_until = 0.0

    def reserve(self, tokens: int, *, now: float) -> float:
        """Take the next free place for a request of so many tokens; return the s until then.

        >>> pace = Pace(requests=60, tokens=None)
        >>> [pace.reserve(100, now=50.0) for _ in range(3)]
        [0.0, 1.0, 2.0]
        >>> pace = Pace(requests=None, tokens=6000)
        >>> [pace.reserve(100, now=50.0) for _ in range(3)]
        [0.0, 1.0, 2.0]
        """
        place = max(now, self._next)
        self._next = place + max(self._per_request, self._per_token * tokens)
        return place - now

    def pause(self, seconds: float, *, now: float) -> None:
        """Let nobody ask for a while: a server that is overrun means all of us."""
        self._paused_until = max(self._paused_until, now + seconds)

    def paused(self, *, now: float) -> float:
        """Return the s that everybody has to wait still; not above 0 when there is no pause."""
        return self._paused_until - now


def retry_after(headers: Mapping[str, str], *, now: float) -> float | None:
    """Return the seconds that a server asks to wait, from any of the forms of its header.

    >>> retry_after({"retry-after-ms": "250"}, now=0.0), retry_after({"retry-after": "3"}, now=0.0)
    (0.25, 3.0)
    >>> retry_after({"retry-after": "Thu, 01 Jan 1970 00:00:09 GMT"}, now=4.0)
    5.0
    >>> retry_after({"retry-after": "soon"}, now=0.0) is None
    True
    """
    for name, unit in (("retry-after-ms", 1e-3), ("retry-after", 1.0)):
        try:
            return max(0.0, float(headers.get(name, "")) * unit)
        except ValueError:
            continue
    try:
        date = email.utils.parsedate_to_datetime(headers.get("retry-after", ""))
    except ValueError:
        return None
    return max(0.0, date.timestamp() - now)


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


PASSING = (408, 429)  # with every 5xx
HOPELESS = ("insufficient_quota", "billing_not_active")  # a 429 that waiting does not mend
ONE_REQUEST = ("context_length_exceeded", "content_filter", "content_policy_violation")
SHOWN = 300  # characters of a server's message


class Rejected(Exception):
    """This one request cannot be answered (too long, filtered); the others may be."""


class Stopped(Exception):
    """The run has to end, for what happened to another request."""


class LostReply(Exception):
    """A try whose reply, if the server made one, did not come through whole."""


class Server:
    """A connection with retries; use it as an async context manager."""

    def __init__(self, cfg: JudgeConfig) -> None:
        self._cfg = cfg
        self._key = read_key(cfg)
        self._pace = Pace(
            requests=cfg.client.requests_per_minute, tokens=cfg.client.tokens_per_minute
        )
        self._random = random.Random()  # jitter: it must differ between processes
        self._address = str(httpx2.URL(f"{cfg.base_url.rstrip('/')}/chat/completions"))
        # what is given here, the package need not copy from its defaults for every request
        self._options: RequestOptions = {
            "headers": {},
            "params": {},
            "max_retries": 0,
            "timeout": cfg.client.timeout,
            "follow_redirects": True,
            "idempotency_key": "",  # no such header is sent; a new one a request costs time
            "security": {"bearer_auth": True},
            "stream_mode": "legacy",
        }
        self._stop = asyncio.Event()  # once the run has to end, nothing more is tried
        self.tries = 0
        self.client = AsyncOpenAI(
            api_key=self._key,
            base_url=cfg.base_url,
            max_retries=0,
            timeout=cfg.client.timeout,
            http_client=_http_client(self._address, timeout=cfg.client.timeout),
        )

    async def __aenter__(self) -> "Server":
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.client.close()

    async def complete(self, content: bytes, *, tokens: int, lost: Callable[[], None]) -> Any:
        """Return the chat completion that answers a request of JSON, as the server sent it.

        `lost` is called for each try that the server may charge for although its reply never came.
        Raises Rejected for a request that only fails by itself, RunError when the run must end.
        """

        async def once() -> Any:
            response = await self.client.post(
                self._address, content=content, cast_to=httpx2.Response, options=self._options
            )
            return _completion(response.content)

        return await self.patiently(once, tokens=tokens, lost=lost)

    async def patiently(
        self,
        once: Callable[[], Awaitable[Any]],
        *,
        tokens: int = 0,
        lost: Callable[[], None] = lambda: None,
        attempts: int | None = None,
    ) -> Any:
        """Await `once` until it succeeds, as often as the settings say; Stopped after `stop`."""
        limits = self._cfg.client
        attempts = attempts or limits.attempts
        fault = ""
        for number in range(1, attempts + 1):
            await self._turn(tokens)
            self.tries += 1
            try:
                async with asyncio.timeout(limits.timeout):
                    return await once()
            except APIStatusError as error:
                fault, wait = self._status(error)
            except (APIConnectionError, TimeoutError, LostReply) as error:
                fault, wait = _named(error), None
                lost()
            if number < attempts:
                await self.rest(self._backoff(number) if wait is None else wait)
        raise RunError(
            f"{self._cfg.base_url} did not answer in {attempts} tries, the last time for "
            f"{fault}; replies so far are stored, so the same command goes on from there"
        )

    def stop(self) -> None:
        """Let what is under way finish, and try nothing more."""
        self._stop.set()

    async def _turn(self, tokens: int) -> None:
        """Wait for a request's place, and as long as the server asked everybody to."""
        await self.rest(self._pace.reserve(tokens, now=time.monotonic()))
        while (pause := self._pace.paused(now=time.monotonic())) > 0:
            await self.rest(pause)

    async def rest(self, seconds: float) -> None:
        """Sleep; Stopped as soon as the run has to end."""
        if self._stop.is_set():
            raise Stopped
        if seconds <= 0:
            return
        try:
            await asyncio.wait_for(self._stop.wait(), seconds)
        except TimeoutError:
            return
        raise Stopped

    def _backoff(self, number: int) -> float:
        limits = self._cfg.client
        ceiling = min(limits.longest_wait, limits.backoff * 2 ** (number - 1))
        return float(ceiling * self._random.uniform(0.5, 1.0))

    def _status(self, error: APIStatusError) -> tuple[str, float | None]:
        """Return (fault, s to wait or None) of a status that may pass; raise for any other."""
        status = error.status_code
        if (status not in PASSING and status < 500) or error.code in HOPELESS:
            raise self._refusal(error) from None
        wait = retry_after(error.response.headers, now=time.time())
        if wait is not None:
            self._pace.pause(wait, now=time.monotonic())
        return f"status {status}", wait

    def _refusal(self, error: APIStatusError) -> Exception:
        """Return one sentence for a status that trying again does not change."""
        cfg, status = self._cfg, error.status_code
        if error.code in ONE_REQUEST:
            return Rejected(str(error.code))
        if status in (401, 403):
            return RunError(
                f"{cfg.base_url} refused the key in {cfg.client.key_env} (status {status}); set "
                "that environment variable to a key that is valid there"
            )
        own = error.body.get("message") if isinstance(error.body, dict) else None
        said = " ".join(self.clean(str(own or error.message)).split())[:SHOWN]
        if status == 404:
            return RunError(
                f"{cfg.base_url} has no model {cfg.model!r}, or is not where its API begins "
                f"(status 404: {said}); check judge.model and judge.base_url"
            )
        return RunError(
            f"{cfg.base_url} will not take such a request (status {status}: {said}); check "
            "judge.model and the fields of judge.request"
        )

    def clean(self, text: str) -> str:
        """Return a server's words without the key, should it have repeated it."""
        return text if self._key == NO_KEY else text.replace(self._key, "[key]")


def _http_client(address: str, *, timeout: float) -> httpx2.AsyncClient:
    """Return what sends requests; a proxy that the environment names is left to the package."""
    if urllib.request.getproxies():
        return DefaultAioHttpClient(timeout=timeout)
    return ChatClient(address, timeout=timeout)


def _completion(content: bytes) -> dict[str, Any]:
    try:
        return whole(json.loads(content))
    except ValueError as error:
        raise LostReply("a reply that is cut off or no JSON") from error


def whole(body: Any) -> dict[str, Any]:
    """Return a chat completion if it is one; LostReply otherwise."""
    try:
        message = body["choices"][0]["message"]
    except (LookupError, TypeError) as error:
        raise LostReply("a reply that is no chat completion") from error
    if not isinstance(body, dict) or not isinstance(message, dict):
        raise LostReply("a reply that is no chat completion")
    return body


def _named(error: Exception) -> str:
    """Return a fault in words; never an exception's own text, which may hold the request."""
    if isinstance(error, LostReply):
        return str(error)
    if isinstance(error, TimeoutError) or "Timeout" in type(error).__name__:
        return "a timeout"
    return "a broken connection" if isinstance(error, APIError) else type(error).__name__
