"""Google's metadata server: who names it, and that whatever else answers is an OSError."""

import http.server
import socketserver
import threading

import pytest

from cotjax.metadata import LIMIT, NAMES, ask, server


@pytest.fixture
def answering():
    """Opens a server that answers each request with the same bytes; gives its environment."""
    opened = []

    def open_server(said):
        class Handler(socketserver.StreamRequestHandler):
            def handle(self):
                while self.rfile.readline().strip():
                    pass
                self.wfile.write(said)

        found = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        opened.append(found)
        threading.Thread(target=found.serve_forever, daemon=True).start()
        return {NAMES[1]: f"127.0.0.1:{found.server_port}"}

    yield open_server
    for one in opened:
        one.shutdown()
        one.server_close()


def test_the_first_name_wins_and_an_empty_one_is_none():
    one, other = NAMES
    assert server({}) == server({one: "", other: ""}) == ""
    assert server({other: "b"}) == server({one: "", other: "b"}) == "b"
    assert server({one: "a", other: "b"}) == "a"


def test_an_answer_and_its_mark(answering):
    said = b"HTTP/1.0 200 OK\r\nETag: 7\r\n\r\ntwo"
    assert ask("attributes/x", patience=5, environment=answering(said)) == ("two", "7")
    long = b"HTTP/1.0 200 OK\r\n\r\n" + b"x" * (LIMIT + 9)
    assert ask("", patience=5, environment=answering(long)) == ("x" * LIMIT, "0")


@pytest.mark.parametrize(
    "said",
    [
        b"HTTP/1.0 404 Not Found\r\n\r\n",
        b"no HTTP\r\n\r\n",
        b"",
        b"HTTP/1.0 200 OK\r\n\r\n\xff\xfe",
        b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\nzz",
    ],
    ids=["not there", "nonsense", "nothing", "no UTF-8", "no chunk"],
)
def test_what_no_metadata_server_says_is_an_oserror(answering, said):
    with pytest.raises(OSError):
        ask("attributes/x", patience=5, environment=answering(said))


def test_a_name_that_is_none_is_an_oserror():
    with pytest.raises(OSError):
        ask("", patience=5, environment={NAMES[0]: "a host"})
