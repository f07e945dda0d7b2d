"""A teacher behind an OpenAI-compatible server: POST {url}/chat/completions."""

import dataclasses
import json
import os
import time
from collections.abc import Callable
from typing import Any

from cotjax.errors import InputError, visible
from cotjax.teachers.answer_cache import Answer, AnswerCache, request_key
from cotjax.teachers.http_post import PostFailed, Redirected, Reply, post

AGAIN = {408, 409, 425, 429, 500, 502, 503, 504, 529}  # statuses that may pass
LONGEST_WAIT = 600.0  # seconds; a server that asks for more is left for a later run
_MOST_SAID = 8192  # bytes of what a server says about an error
_SHORTEST_SECRET = 8  # letters; "none" or "EMPTY" are no keys to hide


class ServerFailed(Exception):
    """A request that had no usable answer after every retry; the text says why."""


@dataclasses.dataclass(frozen=True)
class ServerSettings:
    """How requests to a server are made.

    Attributes:
      url: up to and with /v1.
      model: its name on the server.
      key_variable: environment variable with the key; none is sent if it is not set.
      temperature: 0 is greedy.
      max_new_tokens: of an answer.
      timeout: seconds until a request is given up, whatever has come of its answer.
      retries: further requests after a failed one; the wait doubles from one to the next, and is
        never shorter than the server asks for.
      backoff: seconds of the first wait.
      per_minute: requests started a minute; 0 = no limit.
    """

    url: str
    model: str
    key_variable: str
    temperature: float
    max_new_tokens: int
    timeout: float
    retries: int
    backoff: float
    per_minute: int


class ChatServer:
    """Requests answers of a server, none of them twice.

    Args:
      settings: how.
      cache: answers that are known; every new one goes there before it is returned.
      sleep: waits; seconds.
    """

    def __init__(
        self,
        settings: ServerSettings,
        cache: AnswerCache,
        sleep: Callable[[float], None] = time.sleep,
    ) -> None:
        self._settings, self._cache, self._sleep = settings, cache, sleep
        self._next = 0.0
        self.asked = self.cached = 0

    def answer(self, prompt: str, *, attempt: int = 0) -> Answer:
        """The server's answer to a prompt, and whether it is a whole one.

        Args:
          prompt: one message of the user.
          attempt: number of the answer, for several to one prompt; it is the request's seed.

        Raises:
          ServerFailed: no answer after every retry; a later run may get one.
          InputError: the server refuses such requests (wrong key, unknown model or path).
        """
        settings = self._settings
        request = {
            "model": settings.model,
            "messages": [{"role": "user", "content": prompt}],
            "temperature": settings.temperature,
            "max_tokens": settings.max_new_tokens,
            "seed": attempt,
        }
        key = request_key(request | {"url": settings.url})
        known = self._cache.get(key)
        if known is not None:
            self.cached += 1
            return known
        answer = self._ask(request)
        self._cache.put(key, answer)
        return answer

    def _ask(self, request: dict[str, Any]) -> Answer:
        settings, secret = self._settings, self._key()
        reason, wait = "", 0.0
        for tried in range(settings.retries + 1):
            if tried:
                self._sleep(max(settings.backoff * 2 ** (tried - 1), wait))
            self._keep_rate()
            self.asked += 1
            wait = 0.0
            try:
                reply = self._post(request, secret)
                if reply.status == 200:
                    answer = answer_of(reply.body)
                    return dataclasses.replace(answer, text=masked(answer.text, secret))
                told = masked(f"HTTP {reply.status} {reply.reason}{_said(reply.body)}", secret)
                reason = visible(told[:300])
                wait = reply.retry_after or 0.0
            except (PostFailed, ValueError) as error:
                reason = masked(str(error), secret)[:200]
            else:
                self._check_passes(reply, reason)
            if wait > LONGEST_WAIT:
                raise ServerFailed(f"{settings.url}: {reason}, and to wait {wait:.0f} s")
        times = settings.retries + 1
        raise ServerFailed(f"{settings.url}: {times} times {reason}")

    def _check_passes(self, reply: Reply, reason: str) -> None:
        """Raises if the same request would be refused again."""
        if reply.status not in AGAIN:
            raise InputError(
                f"rationales.url = {self._settings.url}: {reason}. Check rationales.url, "
                f"rationales.model and the key in {self._settings.key_variable}."
            )

    def _key(self) -> str:
        """The key of the environment; empty if there is none.

        Raises:
          InputError: one that no header can hold. The key itself is never shown.
        """
        variable = self._settings.key_variable
        key = os.environ.get(variable, "").strip()
        if not key.isascii() or not key.isprintable() or " " in key:
            raise InputError(
                f"rationales.key_variable = {variable}: the key in this environment variable has "
                "spaces or letters that no header can hold. Set it to the key alone."
            )
        return key

    def _post(self, request: dict[str, Any], key: str) -> Reply:
        settings = self._settings
        headers = {"Content-Type": "application/json"}
        if key:
            headers["Authorization"] = f"Bearer {key}"
        url = f"{settings.url.rstrip('/')}/chat/completions"
        try:
            return post(url, json.dumps(request).encode(), headers, settings.timeout)
        except Redirected as other:
            raise InputError(
                f"rationales.url = {settings.url}: the server sends requests on to "
                f"{masked(str(other), key)[:200]}. The key goes nowhere else by itself; set "
                "rationales.url to that address, up to and with /v1, if you trust it."
            ) from None

    def _keep_rate(self) -> None:
        if not self._settings.per_minute:
            return
        now = time.monotonic()
        if now < self._next:
            self._sleep(self._next - now)
        self._next = max(now, self._next) + 60 / self._settings.per_minute


def masked(text: str, key: str) -> str:
    """A text without the key, which a server may repeat.

    Example:
      >>> masked("wrong key sk-12345678", "sk-12345678")
      'wrong key ***'
    """
    return text.replace(key, "***") if len(key) >= _SHORTEST_SECRET else text


def _said(body: bytes) -> str:
    """What a server says about an error, in brackets: its JSON's message, or plain text."""
    text = body[:_MOST_SAID].decode("utf-8", "replace")
    try:
        said = json.loads(text)
        for key in ("error", "message"):  # of OpenAI, vLLM and others
            said = said.get(key, said) if isinstance(said, dict) else said
        text = said if isinstance(said, str) else text
    except (ValueError, RecursionError):
        text = "" if "<html" in text.lower() else text
    text = " ".join(text.split())
    return f" ({text})" if text else ""


def answer_of(body: bytes) -> Answer:
    """The answer in a response.

    Raises:
      ValueError: a response that holds none.
    """
    try:
        choice = json.loads(body)["choices"][0]
        text, end = choice["message"]["content"], choice.get("finish_reason")
    except (LookupError, TypeError, AttributeError, RecursionError) as error:
        raise ValueError(f"{len(body)} bytes without choices[0].message.content") from error
    if not isinstance(text, str) or not text.strip():
        raise ValueError("an empty answer")
    return Answer(text, cut=end in ("length", "content_filter"))
