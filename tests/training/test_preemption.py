"""Notices of preemption, from a metadata server that stands here in place of Google's."""

import http.server
import json
import signal
import threading
import time

import pytest

from cotjax import metadata
from cotjax.training import preemption
from cotjax.training.preemption import watch_preemption
from cotjax.training.signals import StopSignals

CALM = {"preempted": "FALSE", "maintenanceEvent": "NONE", "name": "a"}


class Server(http.server.ThreadingHTTPServer):
    """Answers one question after the other with what is in `answers`; the last one waits."""

    daemon_threads = True
    answers: list
    asked: list


@pytest.fixture
def server(monkeypatch):
    class Handler(http.server.BaseHTTPRequestHandler):
        def do_GET(self):
            assert self.headers["Metadata-Flavor"] == "Google"
            found.asked.append(self.path)
            if not found.answers:
                time.sleep(2)  # nothing changes
            body = found.answers.pop(0) if found.answers else json.dumps(CALM)
            self.send_response(200 if body else 503)
            self.send_header("ETag", str(len(found.asked)))
            self.end_headers()
            self.wfile.write(body.encode())

        def log_message(self, *_):
            pass

    found = Server(("127.0.0.1", 0), Handler)
    found.answers, found.asked = [], []
    monkeypatch.setenv(metadata.NAMES[0], f"127.0.0.1:{found.server_port}")
    monkeypatch.setattr(preemption, "AGAIN", 0.01)
    threading.Thread(target=found.serve_forever, daemon=True).start()
    yield found
    found.shutdown()
    found.server_close()


def wait_for(true):
    end = time.monotonic() + 20
    while not true() and time.monotonic() < end:
        time.sleep(0.01)
    assert true()


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"preempted": "TRUE"}, "This machine is being preempted."),
        ({"maintenanceEvent": "TERMINATE_ON_HOST_MAINTENANCE"}, "taken away for maintenance"),
    ],
)
def test_a_notice_is_told_and_ends_the_run_as_sigterm_does(server, change, words):
    calm = json.dumps(CALM)
    server.answers = [calm, "", "{", "[]", calm, json.dumps(CALM | change)]
    told = []
    with StopSignals(30.0, told.append) as signals, watch_preemption(told.append):
        wait_for(lambda: signals.asked == signal.SIGTERM and len(told) == 2)
    assert words in told[0] and "SIGUSR1: the run finishes its step" in told[1]
    assert "last_etag=0" in server.asked[0] and "last_etag=1" in server.asked[1]


def test_a_machine_that_moves_is_not_taken_away(server):
    server.answers = [json.dumps(CALM | {"maintenanceEvent": "MIGRATE_ON_HOST_MAINTENANCE"})]
    told = []
    with StopSignals(30.0, told.append) as signals, watch_preemption(told.append):
        wait_for(lambda: len(server.asked) == 2)
        assert signals.asked == 0 and told == []


@pytest.mark.parametrize(
    ("product", "asks"), [("Google Compute Engine\n", True), ("PowerEdge\n", False), (None, False)]
)
def test_only_machines_of_google_are_asked(monkeypatch, tmp_path, product, asks):
    for name in metadata.NAMES:
        monkeypatch.delenv(name, raising=False)
    path = tmp_path / "product_name"
    if product:
        path.write_text(product)
    monkeypatch.setattr(preemption, "PRODUCT", path)
    assert preemption._is_googles() == asks
    if not asks:
        before = threading.active_count()
        with watch_preemption(print):
            assert threading.active_count() == before
