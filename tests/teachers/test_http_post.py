"""One POST to a server that nobody trusts; `test_chat_client` has what becomes of it."""

import contextlib
import http.server
import threading

import pytest

from cotjax.teachers import http_post
from cotjax.teachers.http_post import PostFailed, Redirected, post, seconds_of


class Handler(http.server.BaseHTTPRequestHandler):
    """Says what its server is told to: status, headers, body."""

    def do_POST(self):  # noqa: N802
        body = self.rfile.read(int(self.headers["Content-Length"]))
        self.server.seen.append((self.path, body, dict(self.headers)))  # pyright: ignore
        status, headers, answer = self.server.says(self.path)  # pyright: ignore
        self.send_response(status)
        for name, value in {"Content-Length": str(len(answer)), **headers}.items():
            self.send_header(name, value)
        self.end_headers()
        with contextlib.suppress(OSError):
            self.wfile.write(answer)

    def log_message(self, *arguments):  # noqa: D102
        pass


@contextlib.contextmanager
def serve(says):
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        server.says, server.seen = says, []  # pyright: ignore
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield f"http://127.0.0.1:{server.server_port}", server.seen  # pyright: ignore
        server.shutdown()


def test_a_reply_is_whole_and_says_how_long_to_wait():
    with serve(lambda path: (503, {"Retry-After": "7"}, b"busy")) as (url, seen):
        reply = post(f"{url}/v1", b"{}", {"Authorization": "Bearer k"}, 5)
    assert (reply.status, reply.retry_after, reply.body) == (503, 7.0, b"busy")
    ((path, body, headers),) = seen
    assert (path, body) == ("/v1", b"{}") and headers["Authorization"] == "Bearer k"


def test_the_same_server_may_redirect_and_another_one_is_named():
    with serve(lambda path: (200, {}, b"ok")) as (other, got):

        def says(path):
            where = {"/v1": "/v2", "/away": f"{other}/v1"}.get(path)
            return (307, {"Location": where}, b"") if where else (200, {}, b"here")

        with serve(says) as (url, seen):
            assert post(f"{url}/v1", b"{}", {}, 5).body == b"here"
            assert [path for path, *_ in seen] == ["/v1", "/v2"]
            with pytest.raises(Redirected, match=f"{other}/v1"):
                post(f"{url}/away", b"{}", {"Authorization": "Bearer k"}, 5)
        assert got == []


def test_an_answer_that_is_too_long_or_late_is_none(monkeypatch):
    monkeypatch.setattr(http_post, "_MOST_BYTES", 100)
    with serve(lambda path: (200, {}, b"x" * 101)) as (url, _):
        with pytest.raises(PostFailed, match="an answer of more than 100 bytes"):
            post(url, b"{}", {}, 5)
    with serve(lambda path: (200, {"Content-Length": "50"}, b"x")) as (url, _):
        with pytest.raises(PostFailed):
            post(url, b"{}", {}, 0.5)
    with pytest.raises(PostFailed):
        post("http://127.0.0.1:1", b"{}", {}, 5)


@pytest.mark.parametrize("text", ["", "soon", "-1", "1.5", "９"])
def test_what_is_no_wait_is_none(text):
    assert seconds_of(text, 0.0) is None
