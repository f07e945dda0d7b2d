"""One POST to a server that nobody trusts: bounded in time and size, and its key stays with it.

httpx2, which huggingface_hub brings, does the HTTP. Its own limits are for each read, so a server
that sends a byte at a time would never meet one; here a clock runs over all of it, from the look-up
of the name to the last byte.
"""

import dataclasses
import email.utils
import functools
import ssl
import time
from collections.abc import Mapping

import anyio
import anyio.from_thread
import httpx2

_MOST_BYTES = 32 * 2**20  # of an answer
_MOST_REDIRECTS = 3


class PostFailed(Exception):
    """No answer, or not a whole one; another try may get it. The text says why."""


class Redirected(Exception):
    """The server names another one; the text is its address."""


@dataclasses.dataclass(frozen=True)
class Reply:
    """What a server answered.

    Attributes:
      status: 200 and so on.
      reason: of the status, in the server's words.
      retry_after: seconds that it asks to wait; None if it does not.
      body: as sent.
    """

    status: int
    reason: str
    retry_after: float | None
    body: bytes


def post(url: str, content: bytes, headers: Mapping[str, str], seconds: float) -> Reply:
    """The server's reply; redirects are followed on the same scheme, host and port alone.

    Args:
      url: where to.
      content: what is sent.
      headers: beside those of HTTP itself.
      seconds: for everything.

    Raises:
      PostFailed: see there.
      Redirected: to another server, or by a redirect that would drop the content.
    """
    _certificates()  # before the clock runs
    try:
        with anyio.from_thread.start_blocking_portal() as portal:
            return portal.call(_post, url, content, headers, seconds)
    except TimeoutError as error:
        raise PostFailed(f"no whole answer in {seconds:g} s") from error
    except (OSError, httpx2.HTTPError, httpx2.InvalidURL, ValueError) as error:
        raise PostFailed(f"{type(error).__name__}: {error}") from error


@functools.cache
def _certificates() -> ssl.SSLContext:
    """Whom to trust; reading all of them takes longer than a request."""
    return httpx2.create_ssl_context()


async def _post(url: str, content: bytes, headers: Mapping[str, str], seconds: float) -> Reply:
    # Nothing unpacks what is sent: a small answer could be a large one packed.
    headers = {"Accept-Encoding": "identity", **headers}
    with anyio.fail_after(seconds):
        async with httpx2.AsyncClient(verify=_certificates(), timeout=None) as client:
            request = client.build_request("POST", url, content=content, headers=headers)
            origin = request.url.origin
            for _ in range(_MOST_REDIRECTS + 1):
                response = await client.send(request, stream=True)
                try:
                    following = response.next_request
                    if following is None:
                        return await _reply(response)
                finally:
                    await response.aclose()
                if following.url.origin != origin or following.method != "POST":
                    raise Redirected(str(following.url))
                request = following
    raise PostFailed(f"more than {_MOST_REDIRECTS} redirects")


async def _reply(response: httpx2.Response) -> Reply:
    body = bytearray()
    async for piece in response.aiter_raw():
        body += piece
        if len(body) > _MOST_BYTES:
            raise PostFailed(f"an answer of more than {_MOST_BYTES:,} bytes")
    wait = seconds_of(response.headers.get("Retry-After", ""), time.time())
    return Reply(response.status_code, response.reason_phrase, wait, bytes(body))


def seconds_of(retry_after: str, now: float) -> float | None:
    """The wait that a Retry-After header asks for, in seconds; None if it says none.

    Args:
      retry_after: seconds, or a date.
      now: seconds since 1970.

    Example:
      >>> seconds_of("7", 0.0), seconds_of("Thu, 01 Jan 1970 00:01:00 GMT", 20.0)
      (7.0, 40.0)
      >>> seconds_of("soon", 0.0), seconds_of("Thu, 01 Jan 1970 00:01:00 GMT", 90.0)
      (None, 0.0)
    """
    text = retry_after.strip()
    if text.isascii() and text.isdigit():
        return float(text[:12])
    try:
        return max(email.utils.parsedate_to_datetime(text).timestamp() - now, 0.0)
    except (ValueError, OverflowError):
        return None
