"""A teacher's server that refuses, times out, answers garbage and dies midway."""

import contextlib
import gzip
import http.server
import json
import threading
import time

import pytest

from cotjax.errors import InputError
from cotjax.teachers.answer_cache import Answer, AnswerCache
from cotjax.teachers.chat_client import LONGEST_WAIT, ChatServer, ServerFailed, ServerSettings

SECRET = "sk-12345678"


def good(text, end="stop"):
    choice = {"message": {"content": text}, "finish_reason": end}
    return 200, json.dumps({"choices": [choice]}).encode()


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
        status, answer, *more = step
        if status == "drip":  # a byte at a time, of the headers or of the body
            with contextlib.suppress(OSError):
                for byte in answer:
                    self.wfile.write(bytes([byte]))
                    if server.released.wait(0.02):  # pyright: ignore
                        return
            return
        if status == "hang":
            server.released.wait(5)  # pyright: ignore[reportAttributeAccessIssue]
            return
        self.send_response(status)
        # A body shorter than promised is a server that died midway.
        for name, value in dict(*more).items():
            self.send_header(name, value)
        self.send_header("Content-Length", str(len(answer) + (100 if answer == b"dies" else 0)))
        self.end_headers()
        self.wfile.write(answer)

    def log_message(self, *arguments):  # noqa: D102
        pass


@contextlib.contextmanager
def serve(*script, port=0):
    with http.server.ThreadingHTTPServer(("127.0.0.1", port), Handler) as server:
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
        **{"max_new_tokens": 8, "timeout": 20.0, "retries": 3, "backoff": 1.0, "per_minute": 0},
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
        assert ask(url, cache).answer("How many?", attempt=2) == Answer("Answer: 7")
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
        timeout = 2.0 if trouble[0] == "hang" else 20.0
        server = ask(url, cache, waits=waits, timeout=timeout)
        assert server.answer("?") == Answer("Answer: 7")
    assert len(seen) == 3 and waits == [1.0, 2.0]


def test_after_every_retry_it_says_why_and_nothing_is_kept(cache):
    with serve((500, b"")) as (url, seen), pytest.raises(ServerFailed, match="4 times HTTP 500"):
        ask(url, cache).answer("?")
    assert len(seen) == 4 and len(cache) == 0


def test_a_server_that_is_not_there(cache):
    with pytest.raises(ServerFailed, match="2 times ConnectError"):
        ask("http://127.0.0.1:9/v1", cache, retries=1).answer("?")


@pytest.mark.parametrize("status", [400, 401, 404])
def test_a_refusal_is_not_tried_again(cache, status):
    with serve((status, b"")) as (url, seen), pytest.raises(InputError, match=f"HTTP {status}"):
        ask(url, cache).answer("?")
    assert len(seen) == 1


@pytest.mark.parametrize(
    ("body", "said"),
    [
        (b'{"error": {"message": "use max_tokens < 9", "code": 1}}', "use max_tokens < 9"),
        (b'{"object": "error", "message": "no\\u001b[31m model"}', r"no\x1b[31m model"),
        (b'{"error": "no\\n model"}', "no model"),
        (b'{"detail": ["no"]}', '{"detail": ["no"]}'),
        (b"no model", "no model"),
        (b"<!doctype html><html>no</html>", ""),
        (f"wrong key {SECRET}".encode(), "wrong key ***"),
        (b"\xff" + b"x" * 10**5, "\ufffd" + "x" * 200),
    ],
)
def test_a_refusal_is_told_in_the_servers_words(cache, monkeypatch, body, said):
    monkeypatch.setenv("COTJAX_TEST_KEY", SECRET)
    with serve((400, body)) as (url, _), pytest.raises(InputError) as error:
        ask(url, cache).answer("?")
    told = str(error.value)
    assert f"HTTP 400 Bad Request ({said}" in told if said else "HTTP 400 Bad Request. " in told
    assert "Check rationales.url, rationales.model" in told and len(told) < 600
    with serve((500, body)) as (url, _), pytest.raises(ServerFailed) as failed:
        ask(url, cache, retries=0).answer("?")
    assert said in str(failed.value) and SECRET not in f"{failed.value}{told}"


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
                assert [server.answer(text).text for text in "ab"] == ["to a", "to b"]
        assert len(seen) == 2 and (server.asked, server.cached) == (0, 2)
        with AnswerCache(path) as cache:  # another setting is another answer
            ask(url, cache, temperature=1.0).answer("a")
    assert len(seen) == 3


# A server that nobody trusts.


def test_a_key_goes_to_no_other_server(cache, monkeypatch):
    monkeypatch.setenv("COTJAX_TEST_KEY", SECRET)
    with serve(good("stolen")) as (other, seen_there):
        for status in (301, 302, 303, 307, 308):
            away = status, b"", {"Location": f"{other}/chat/completions?key={SECRET}"}
            with serve(away) as (url, seen), pytest.raises(InputError) as error:
                ask(url, cache).answer("?")
            assert len(seen) == 1 and "rationales.url" in str(error.value)
            assert other in str(error.value) and SECRET not in str(error.value)
    assert not seen_there and len(cache) == 0


def test_a_redirect_of_the_same_server_is_followed_with_the_content(cache, monkeypatch):
    monkeypatch.setenv("COTJAX_TEST_KEY", SECRET)
    there = 307, b"", {"Location": "/v2/chat/completions"}
    with serve(there, good("7")) as (url, seen):
        assert ask(url, cache).answer("?").text == "7"
    assert [path for path, *_ in seen] == ["/v1/chat/completions", "/v2/chat/completions"]
    assert seen[0][1:] == seen[1][1:] and seen[1][2] == f"Bearer {SECRET}"


def test_redirects_without_an_end(cache):
    there = 307, b"", {"Location": "/v1/chat/completions"}
    with serve(there) as (url, _), pytest.raises(ServerFailed, match="more than 3 redirects"):
        ask(url, cache, retries=0).answer("?")


@pytest.mark.parametrize(
    "sent",
    [b"HTTP/1.1 200 OK\r\nX: " + b"a" * 1000, b"HTTP/1.1 200 OK\r\n\r\n" + b" " * 1000],
    ids=["headers", "body"],
)
def test_a_slow_drip_meets_the_limit_of_time(cache, sent):
    begun = time.monotonic()
    with serve(("drip", sent)) as (url, _), pytest.raises(ServerFailed, match=r"answer in 0.5 s"):
        ask(url, cache, retries=0, timeout=0.5).answer("?")
    assert time.monotonic() - begun < 10 and len(cache) == 0


def test_an_answer_without_an_end_is_not_read_for_ever(cache, monkeypatch):
    monkeypatch.setattr("cotjax.teachers.http_post._MOST_BYTES", 1000)
    with serve((200, b" " * 2000)) as (url, _), pytest.raises(ServerFailed, match="1,000 bytes"):
        ask(url, cache, retries=0).answer("?")


def test_a_server_that_asks_to_wait_is_obeyed_and_not_for_ever(cache):
    waits = []
    with serve((429, b"", {"Retry-After": "7"}), (503, b""), good("7")) as (url, _):
        ask(url, cache, waits=waits).answer("a")
    assert waits == [7.0, 2.0]
    assert LONGEST_WAIT < 86400
    with serve((429, b"", {"Retry-After": "86400"})) as (url, seen):
        with pytest.raises(ServerFailed, match="HTTP 429 .* to wait 86400 s"):
            ask(url, cache).answer("b")
    assert len(seen) == 1


def test_an_answer_cut_by_length_is_kept_as_such(tmp_path):
    path = tmp_path / "cache.jsonl"
    with serve(good("Step 1: 2 +", "length")) as (url, seen):
        for _ in range(2):
            with AnswerCache(path) as cache:
                assert ask(url, cache).answer("?") == Answer("Step 1: 2 +", cut=True)
    assert len(seen) == 1


def test_a_server_that_repeats_the_key_shows_it_to_nobody(tmp_path, monkeypatch):
    monkeypatch.setenv("COTJAX_TEST_KEY", SECRET)
    path = tmp_path / "cache.jsonl"
    with AnswerCache(path) as cache:
        with serve(good(f"Bearer {SECRET}")) as (url, _):
            assert ask(url, cache).answer("?").text == "Bearer ***"
        repeated = (200, SECRET.encode()), (500, b"", {"X-Key": SECRET})
        for script in repeated:
            with serve(script) as (url, _), pytest.raises(ServerFailed) as error:
                ask(url, cache, retries=0).answer("other")
            assert SECRET not in str(error.value)
    assert SECRET not in path.read_text()


@pytest.mark.parametrize("key", ["sk 12345678", "sk-1234\nX-Other: 5678", "clé-12345678"])
def test_a_key_that_is_no_header_is_refused_unseen(cache, monkeypatch, key):
    monkeypatch.setenv("COTJAX_TEST_KEY", key)
    with pytest.raises(InputError, match="COTJAX_TEST_KEY: the key .* has spaces") as error:
        ask("http://127.0.0.1:9/v1", cache).answer("?")
    assert "1234" not in str(error.value)


def test_an_answer_that_is_packed_against_our_wish_is_none(cache):
    packed = 200, gzip.compress(b" " * 10**6), {"Content-Encoding": "gzip"}
    with serve(packed) as (url, _), pytest.raises(ServerFailed, match="1 times"):
        ask(url, cache, retries=0).answer("?")
