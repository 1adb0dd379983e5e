"""The client of an OpenAI-compatible server: the openai package, rate limits, and errors in words.

openai.AsyncOpenAI builds requests, keeps connections and retries: 408, 429, 5xx, timeouts, broken
connections, replies that are cut off or no JSON. Every try passes `_HttpClient.send`, which waits
for the rate limits and tells the package whether, and after how long, to try again. The key is
read from the environment and goes into the client only; no exception of the package, which would
hold the request and its headers, leaves this module.
"""

import asyncio
import email.utils
import json
import random
import time
from collections.abc import Awaitable, Callable, Mapping
from contextvars import ContextVar
from dataclasses import dataclass
from typing import Any, TypeVar

import httpx2
from aiolimiter import AsyncLimiter
from openai import (
    APIStatusError,
    AsyncOpenAI,
    DefaultAioHttpClient,
    OpenAIError,
    RequestOptions,
)

from qlora_repro.config.schema import ClientConfig, JudgeConfig
from qlora_repro.errors import RunError
from qlora_repro.judge.cost import Budget
from qlora_repro.judge.protocol import NO_KEY, read_api_key
from qlora_repro.judge.replies import ReplyStore

MINUTE = 60.0  # s
TRANSIENT_STATUSES = (408, 429)  # and every 5xx
NO_FUNDS_CODES = ("insufficient_quota", "billing_not_active")  # a 429 that waiting does not mend
SINGLE_REQUEST_CODES = ("context_length_exceeded", "content_filter", "content_policy_violation")
MAX_MESSAGE_CHARS = 300  # of a server's message
MAX_SDK_WAIT = 120.0  # s; the package takes no longer wait from a header
STARTS_PER_PASS = 4  # of the event loop; more would make replies come in ever larger groups
REJECTED = "rejected"  # in a stored reply: why the server will never answer this request
T = TypeVar("T")


class RequestRejected(Exception):
    """The server cannot answer this one request (too long, filtered); it may answer others."""


class InvalidCompletion(Exception):
    """A reply that is cut off, no JSON or no chat completion."""


class RateLimits:
    """Spaces requests evenly, so that no minute holds more than the limits; pauses for all."""

    def __init__(self, *, requests: int | None, tokens: int | None) -> None:
        self._requests = AsyncLimiter(1, MINUTE / requests) if requests else None
        # A bucket of one second: it lets through 61 seconds' worth in a minute
        self._tokens = AsyncLimiter(tokens / (MINUTE + 1), 1) if tokens else None
        self._queue = asyncio.Lock()  # one at a time fills up its tokens
        self._paused_until = 0.0  # on the event loop's clock

    async def wait(self, tokens: float) -> None:
        """Wait until a request of so many tokens may be sent."""
        async with self._queue:
            while self._tokens is not None and tokens > 0:
                part = min(tokens, self._tokens.max_rate)
                await self._tokens.acquire(part)
                tokens -= part
            if self._requests is not None:
                await self._requests.acquire()
        while (pause := self._paused_until - asyncio.get_running_loop().time()) > 0:
            await asyncio.sleep(pause)

    def pause(self, seconds: float) -> None:
        """Hold every request back for a while."""
        resume = asyncio.get_running_loop().time() + seconds
        self._paused_until = max(self._paused_until, resume)


@dataclass(kw_only=True)
class _Call:
    """One request with all its tries."""

    tokens: int = 0  # expected, input and output
    on_lost: Callable[[], None] = lambda: None  # a try that may be charged for brought no reply
    is_chat: bool = False
    tries: int = 0
    fault: str = ""  # of the last try
    is_transient: bool = False  # whether that fault may pass
    completion: Any = None


_current_call: ContextVar[_Call] = ContextVar("_current_call")


class _HttpClient(DefaultAioHttpClient):
    """The openai package's client on aiohttp, with limits before a try and a verdict after it."""

    def __init__(self, cfg: ClientConfig) -> None:
        super().__init__(timeout=cfg.timeout)
        self._cfg = cfg
        self._limits = RateLimits(requests=cfg.requests_per_minute, tokens=cfg.tokens_per_minute)
        self._stopped = False
        self._template_parts: dict[str, Any] = {}
        self._template: httpx2.Request
        self.waiting: set[asyncio.Task[Any]] = set()  # those that have no request under way

    def build_request(self, method: str, url: Any, **parts: Any) -> httpx2.Request:
        """Build a request; one that differs from the last in content alone shares its headers."""
        if parts.get("content") is None:
            return super().build_request(method, url, **parts)
        template_parts = {"method": method, "url": url, **parts, "content": None}
        if template_parts != self._template_parts:
            self._template_parts = template_parts
            self._template = super().build_request(**template_parts)
            del self._template.headers["Content-Length"]  # 0, as the template is empty
        request = httpx2.Request(
            method,
            self._template.url,
            headers=self._template.headers,
            stream=httpx2.ByteStream(parts["content"]),
            extensions=self._template.extensions,
        )
        request.read()
        return request

    async def send(self, request: httpx2.Request, **options: Any) -> httpx2.Response:
        """Send one try; a lost reply comes back as a 503, so that the package tries again."""
        call, task = _current_call.get(), asyncio.current_task()
        assert task is not None
        await self._limits.wait(call.tokens)
        call.tries += 1
        self.waiting.discard(task)
        try:
            async with asyncio.timeout(self._cfg.timeout):
                response = await super().send(request, **options)
            if call.is_chat and response.is_success:
                call.completion = _decode_completion(response.content)
        except (TimeoutError, httpx2.RequestError, InvalidCompletion) as error:
            call.on_lost()
            call.fault = _describe_fault(error)
            response = httpx2.Response(503, request=request)
        else:
            call.fault = f"status {response.status_code}"
        if response.is_error:
            self.waiting.add(task)
            self._advise_retry(response, call)
        return response

    def stop(self) -> None:
        """Let requests under way finish and cancel what waits for its next try."""
        self._stopped = True
        for task in self.waiting:
            task.cancel()

    def _advise_retry(self, response: httpx2.Response, call: _Call) -> None:
        """Tell the package in a reply's headers whether, and after how long, to try again."""
        status = response.status_code
        is_passing = status in TRANSIENT_STATUSES or status >= 500
        call.is_transient = is_passing and _error_code(response) not in NO_FUNDS_CODES
        wait = parse_retry_after(response.headers, now=time.time())
        if wait is None:
            ceiling = min(self._cfg.longest_wait, self._cfg.backoff * 2 ** (call.tries - 1))
            wait = ceiling * random.uniform(0.5, 1.0)
        elif call.is_transient:
            self._limits.pause(wait)
        is_retried = call.is_transient and not self._stopped
        response.headers["x-should-retry"] = "true" if is_retried else "false"
        response.headers["retry-after-ms"] = f"{max(1.0, 1000 * min(wait, MAX_SDK_WAIT)):.0f}"


class _Sdk(AsyncOpenAI):
    """The openai package's client; its headers on Python and the system are not sent."""

    def platform_headers(self) -> dict[str, str]:
        """Return none: they take time to build and tell the server nothing that it needs."""
        return {}


class ApiClient:
    """Talks to one server; use it as an async context manager.

    Attributes:
        sdk: the openai package's client; await its requests through `run`.
    """

    def __init__(self, cfg: JudgeConfig) -> None:
        self._cfg = cfg
        self._key = read_api_key(cfg)
        self._http = _HttpClient(cfg.client)
        self.sdk = _Sdk(
            api_key=self._key,
            base_url=cfg.base_url,
            max_retries=cfg.client.attempts - 1,
            timeout=cfg.client.timeout,
            http_client=self._http,
        )
        # The whole address and every option: the package takes time to fill in what is missing
        self._url = f"{self.sdk.base_url}chat/completions"
        self._options: RequestOptions = {
            "headers": {},
            "params": {},
            "max_retries": self.sdk.max_retries,
            "timeout": cfg.client.timeout,
            "follow_redirects": True,
            "idempotency_key": "",  # none is sent
            "security": {"bearer_auth": True},
            "stream_mode": "legacy",
        }

    async def __aenter__(self) -> "ApiClient":
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.sdk.close()

    async def complete(
        self, content: bytes, *, tokens: int, on_lost: Callable[[], None]
    ) -> dict[str, Any]:
        """Return the chat completion that answers a request, as the server sent it.

        Args:
            content: the request as JSON.
            tokens: that it is expected to take, for the rate limit.
            on_lost: called for each try that may be charged for although its reply never came.

        Raises:
            RequestRejected: the server will never answer this request.
            RunError: the run has to end.
        """
        call = _Call(tokens=tokens, on_lost=on_lost, is_chat=True)
        request = self.sdk.post(
            self._url, content=content, cast_to=httpx2.Response, options=self._options
        )
        await self.run(request, call)
        completion: dict[str, Any] = call.completion
        return completion

    async def run(self, request: Awaitable[T], call: _Call | None = None) -> T:
        """Await a request of the package with its retries; RunError where that fails."""
        call, task = call or _Call(), asyncio.current_task()
        assert task is not None
        _current_call.set(call)
        self._http.waiting.add(task)
        try:
            return await request
        except APIStatusError as error:
            raise self._translate(error, call) from None
        except OpenAIError as error:
            raise RunError(f"{self._cfg.base_url}: {type(error).__name__}") from None
        finally:
            self._http.waiting.discard(task)

    def stop(self) -> None:
        """Let requests under way finish, and try nothing more."""
        self._http.stop()

    def _translate(self, error: APIStatusError, call: _Call) -> Exception:
        """Return the reason for which a request failed, in one sentence."""
        cfg, status = self._cfg, error.status_code
        if call.is_transient:
            return RunError(
                f"{cfg.base_url} did not answer in {call.tries} tries, the last time for "
                f"{call.fault}; replies so far are stored, so the same command goes on from there"
            )
        if error.code in SINGLE_REQUEST_CODES:
            return RequestRejected(str(error.code))
        if status in (401, 403):
            return RunError(
                f"{cfg.base_url} refused the key in {cfg.client.key_env} (status {status}); set "
                "that environment variable to a key that is valid there"
            )
        message = error.body.get("message") if isinstance(error.body, dict) else None
        message = self.clean(str(message or error.message))
        if status == 404:
            return RunError(
                f"{cfg.base_url} has no model {cfg.model!r}, or is not where its API begins "
                f"(status 404: {message}); check judge.model and judge.base_url"
            )
        return RunError(
            f"{cfg.base_url} will not take such a request (status {status}: {message}); check "
            "judge.model and the fields of judge.request"
        )

    def clean(self, text: str) -> str:
        """Return the start of a server's message on one line, and without the key."""
        text = text if self._key == NO_KEY else text.replace(self._key, "[key]")
        return " ".join(text.split())[:MAX_MESSAGE_CHARS]


@dataclass(frozen=True, kw_only=True)
class RequestContext:
    """What requests share, online and in batches."""

    client: ApiClient
    replies: ReplyStore
    budget: Budget
    expected_tokens: Callable[[dict[str, Any]], int]  # of a request and its reply
    on_reply: Callable[[], None]


async def complete_all(
    bodies: Mapping[str, dict[str, Any]], context: RequestContext, *, concurrency: int
) -> None:
    """Ask for every completion, each stored before it counts.

    After an error that ends the run, requests under way finish and are stored; then the first
    such error is raised.

    Args:
        bodies: requests by their key.
        context: the client, the store and the budget.
        concurrency: requests under way at once.
    """
    errors: list[Exception] = []
    slots = asyncio.Semaphore(concurrency)

    async def ask(key: str, body: dict[str, Any]) -> None:
        content = json.dumps(body).encode()  # once, to be sent and to be stored
        try:
            try:
                reply = await _complete_within_budget(body, content, context)
            finally:
                slots.release()  # the next request need not wait for the disk
            await context.replies.add(key, content, reply)
            context.on_reply()
        except Exception as error:  # noqa: BLE001 - raised once the others are done
            errors.append(error)
            context.client.stop()

    async with asyncio.TaskGroup() as group:
        for number, (key, body) in enumerate(bodies.items(), 1):
            await slots.acquire()
            if not errors:
                await _reserve(body, context.budget, errors)
            if errors:
                break
            group.create_task(ask(key, body))
            if number % STARTS_PER_PASS == 0:
                await asyncio.sleep(0)
    if errors:
        raise errors[0]


async def _reserve(body: dict[str, Any], budget: Budget, errors: list[Exception]) -> None:
    try:
        await budget.reserve(budget.max_cost(body))
    except RunError as error:
        errors.append(error)


async def _complete_within_budget(
    body: dict[str, Any], content: bytes, context: RequestContext
) -> dict[str, Any]:
    """Return the reply to a request whose cost is reserved, and settle what it did cost."""
    budget, cost = context.budget, 0.0
    reserved = budget.max_cost(body)
    try:
        reply = await context.client.complete(
            content,
            tokens=context.expected_tokens(body),
            on_lost=lambda: budget.count_lost(reserved),
        )
        cost = budget.cost(reply, fallback=reserved)
    except RequestRejected as error:
        return {REJECTED: str(error)}
    finally:
        budget.settle(reserved, cost=cost)
    return reply


def check_completion(body: Any) -> dict[str, Any]:
    """Return a chat completion if it is one; InvalidCompletion otherwise."""
    try:
        message = body["choices"][0]["message"]
    except (LookupError, TypeError) as error:
        raise InvalidCompletion("a reply that is no chat completion") from error
    if not isinstance(body, dict) or not isinstance(message, dict):
        raise InvalidCompletion("a reply that is no chat completion")
    return body


def parse_retry_after(headers: Mapping[str, str], *, now: float) -> float | None:
    """Return the seconds that a server asks to wait, from any form of its header.

    >>> parse_retry_after({"retry-after-ms": "250"}, now=0.0)
    0.25
    >>> parse_retry_after({"retry-after": "3"}, now=0.0)
    3.0
    >>> parse_retry_after({"retry-after": "Thu, 01 Jan 1970 00:00:09 GMT"}, now=4.0)
    5.0
    >>> parse_retry_after({"retry-after": "soon"}, now=0.0) is None
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


def _decode_completion(content: bytes) -> dict[str, Any]:
    try:
        return check_completion(json.loads(content))
    except ValueError as error:
        raise InvalidCompletion("a reply that is cut off or no JSON") from error


def _error_code(response: httpx2.Response) -> str:
    """Return the code of an error in OpenAI's form; empty where there is none."""
    try:
        return str(response.json()["error"]["code"])
    except (ValueError, LookupError, TypeError):
        return ""


def _describe_fault(error: Exception) -> str:
    """Return a fault in words; never an exception's own text, which may hold the request."""
    if isinstance(error, InvalidCompletion):
        return str(error)
    is_timeout = isinstance(error, TimeoutError | httpx2.TimeoutException)
    return "a timeout" if is_timeout else "a broken connection"
