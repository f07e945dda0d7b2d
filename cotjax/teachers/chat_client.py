"""A teacher behind an OpenAI-compatible server: POST {url}/chat/completions."""

import dataclasses
import http.client
import json
import os
import time
import urllib.error
import urllib.request
from collections.abc import Callable
from typing import Any

from cotjax.errors import InputError
from cotjax.teachers.answer_cache import AnswerCache, request_key

AGAIN = {408, 409, 425, 429, 500, 502, 503, 504, 529}  # statuses that may pass


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
      timeout: seconds until a request is given up.
      retries: further requests after a failed one; the wait doubles from one to the next.
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

    def answer(self, prompt: str, *, attempt: int = 0) -> str:
        """The server's answer to a prompt.

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
        text = self._ask(request)
        self._cache.put(key, text)
        return text

    def _ask(self, request: dict[str, Any]) -> str:
        reason = ""
        for tried in range(self._settings.retries + 1):
            if tried:
                self._sleep(self._settings.backoff * 2 ** (tried - 1))
            self._keep_rate()
            self.asked += 1
            try:
                return _text_of(self._post(request))
            except urllib.error.HTTPError as error:
                reason = f"HTTP {error.code} {error.reason}"
                if error.code not in AGAIN:
                    raise InputError(
                        f"rationales.url = {self._settings.url}: {reason}. Check rationales.url, "
                        f"rationales.model and the key in {self._settings.key_variable}."
                    ) from error
            except (OSError, http.client.HTTPException, ValueError) as error:
                reason = f"{type(error).__name__}: {error}"
        raise ServerFailed(f"{self._settings.url}: {self._settings.retries + 1} times {reason}")

    def _post(self, request: dict[str, Any]) -> bytes:
        headers = {"Content-Type": "application/json"}
        if key := os.environ.get(self._settings.key_variable):
            headers["Authorization"] = f"Bearer {key}"
        post = urllib.request.Request(
            f"{self._settings.url.rstrip('/')}/chat/completions",
            data=json.dumps(request).encode(),
            headers=headers,
            method="POST",
        )
        with urllib.request.urlopen(post, timeout=self._settings.timeout) as response:
            return response.read()

    def _keep_rate(self) -> None:
        if not self._settings.per_minute:
            return
        now = time.monotonic()
        if now < self._next:
            self._sleep(self._next - now)
        self._next = max(now, self._next) + 60 / self._settings.per_minute


def _text_of(body: bytes) -> str:
    """The answer in a response.

    Raises:
      ValueError: a response that holds none.
    """
    try:
        text = json.loads(body)["choices"][0]["message"]["content"]
    except (KeyError, IndexError, TypeError) as error:
        raise ValueError(f"a response without choices[0].message.content: {body[:80]!r}") from error
    if not isinstance(text, str) or not text.strip():
        raise ValueError("an empty answer")
    return text
