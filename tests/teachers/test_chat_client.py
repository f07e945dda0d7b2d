"""A teacher's server that refuses, times out, answers garbage and dies midway."""

import contextlib
import http.server
import json
import threading

import pytest

from cotjax.errors import InputError
from cotjax.teachers.answer_cache import AnswerCache
from cotjax.teachers.chat_client import ChatServer, ServerFailed, ServerSettings


def good(text):
    return 200, json.dumps({"choices": [{"message": {"content": text}}]}).encode()


class Handler(http.server.BaseHTTPRequestHandler):
    """Answers as the script of its server says, one entry a request; the last one stays."""

    def do_POST(self):  # noqa: N802
        server = self.server
        body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        server.seen.append((self.path, body, self.headers.get("Authorization")))  # pyright: ignore
        script = server.script  # pyright: ignore[reportAttributeAccessIssue]
        step = script.pop(0) if len(script) > 1 else script[0]
        if callable(step):
            step = step(body)
        status, answer = step
        if status == "hang":
            server.released.wait(5)  # pyright: ignore[reportAttributeAccessIssue]
            return
        self.send_response(status)
        # A body shorter than promised is a server that died midway.
        self.send_header("Content-Length", str(len(answer) + (100 if answer == b"dies" else 0)))
        self.end_headers()
        self.wfile.write(answer)

    def log_message(self, *arguments):  # noqa: D102
        pass


@contextlib.contextmanager
def serve(*script):
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        server.script, server.seen, server.released = list(script), [], threading.Event()  # pyright: ignore
        thread = threading.Thread(target=server.serve_forever, args=(0.01,))
        thread.start()
        try:
            yield f"http://127.0.0.1:{server.server_port}/v1", server.seen  # pyright: ignore
        finally:
            server.released.set()  # pyright: ignore
            server.shutdown()
            thread.join()


def ask(url, cache, *, waits=None, **changes):
    settings = {
        **{"url": url, "model": "m", "key_variable": "COTJAX_TEST_KEY", "temperature": 0.0},
        **{"max_new_tokens": 8, "timeout": 0.3, "retries": 3, "backoff": 1.0, "per_minute": 0},
    } | changes
    sleep = (lambda seconds: None) if waits is None else waits.append
    return ChatServer(ServerSettings(**settings), cache, sleep)


@pytest.fixture
def cache(tmp_path):
    with AnswerCache(tmp_path / "cache.jsonl") as cache:
        yield cache


def test_a_request_is_openais_with_the_key_of_the_environment(cache, monkeypatch):
    monkeypatch.setenv("COTJAX_TEST_KEY", "secret")
    with serve(good("Answer: 7")) as (url, seen):
        assert ask(url, cache).answer("How many?", attempt=2) == "Answer: 7"
    ((path, body, key),) = seen
    assert path == "/v1/chat/completions" and key == "Bearer secret"
    assert body["messages"] == [{"role": "user", "content": "How many?"}]
    assert (body["model"], body["max_tokens"], body["seed"]) == ("m", 8, 2)


@pytest.mark.parametrize(
    "trouble",
    [
        (503, b"busy"), (429, b"slow down"), ("hang", b""), (200, b"garbage"), (200, b"dies"),
        (200, b'{"choices": []}'), (200, b'{"choices": [{"message": {"content": ""}}]}'),
    ],
    ids=["busy", "limit", "timeout", "garbage", "dies", "empty", "nothing"],
)  # fmt: skip
def test_what_may_pass_is_tried_again_ever_later(cache, trouble):
    waits = []
    with serve(trouble, trouble, good("Answer: 7")) as (url, seen):
        assert ask(url, cache, waits=waits).answer("?") == "Answer: 7"
    assert len(seen) == 3 and waits == [1.0, 2.0]


def test_after_every_retry_it_says_why_and_nothing_is_kept(cache):
    with serve((500, b"")) as (url, seen), pytest.raises(ServerFailed, match="4 times HTTP 500"):
        ask(url, cache).answer("?")
    assert len(seen) == 4 and len(cache) == 0


def test_a_server_that_is_not_there(cache):
    with pytest.raises(ServerFailed, match="2 times URLError"):
        ask("http://127.0.0.1:9/v1", cache, retries=1).answer("?")


@pytest.mark.parametrize("status", [400, 401, 404])
def test_a_refusal_is_not_tried_again(cache, status):
    with serve((status, b"")) as (url, seen), pytest.raises(InputError, match=f"HTTP {status}"):
        ask(url, cache).answer("?")
    assert len(seen) == 1


def test_requests_keep_their_rate(cache):
    waits = []
    with serve(good("Answer: 7")) as (url, _):
        server = ask(url, cache, waits=waits, per_minute=60)
        for attempt in range(3):
            server.answer("?", attempt=attempt)
    assert len(waits) == 2 and 0.8 < waits[0] <= 1 and 1.6 < waits[1] <= 2


def test_what_was_paid_for_is_never_asked_again(tmp_path):
    path = tmp_path / "cache.jsonl"
    with serve(lambda body: good(f"to {body['messages'][0]['content']}")) as (url, seen):
        for _ in range(2):
            with AnswerCache(path) as cache:
                server = ask(url, cache)
                assert [server.answer(text) for text in "ab"] == ["to a", "to b"]
        assert len(seen) == 2 and (server.asked, server.cached) == (0, 2)
        with AnswerCache(path) as cache:  # another setting is another answer
            ask(url, cache, temperature=1.0).answer("a")
    assert len(seen) == 3
