"""A Hugging Face Hub on this machine: the routes that huggingface_hub asks for files."""

import contextlib
import hashlib
import http.server
import json
import threading
import urllib.parse

from huggingface_hub import constants


class FakeHub:
    """Repositories by kind and name, each with files by revision.

    Attributes:
      repositories: (kind, name) -> revision -> path -> bytes.
      gated: names that need the token.
      token: that opens them.
      asked: paths of all requests.
      got: those that asked for more than headers.
    """

    def __init__(self):
        self.repositories, self.gated, self.token = {}, set(), "hf_secret"
        self.asked, self.got = [], []

    def add(self, name, files, *, kind="models", revision="main"):
        """A revision of a repository."""
        self.repositories.setdefault((kind, name), {})[revision] = files

    def add_folder(self, name, folder, **more):
        """The files of a folder."""
        files = {str(p.relative_to(folder)): p.read_bytes() for p in folder.rglob("*.*")}
        self.add(name, files, **more)

    def sha(self, kind, name, revision):
        return hashlib.sha1(f"{kind}/{name}/{revision}".encode()).hexdigest()

    def files(self, kind, name, revision):
        """(commit, files) of a revision, by its name or its commit; None if there is none."""
        for one, files in self.repositories[kind, name].items():
            sha = self.sha(kind, name, one)
            if revision in (one, sha):
                return sha, files
        return None

    def answer(self, path, authorization):
        """(status, headers, body) of a request."""
        words = [urllib.parse.unquote(word) for word in path.partition("?")[0].split("/")[1:]]
        api = words[0] == "api"
        words = words[1:] if api else words
        kind = words.pop(0) if words[0] in ("models", "datasets") else "models"
        name, rest = "/".join(words[:2]), words[2:]
        if (kind, name) not in self.repositories:
            return 404, {"X-Error-Code": "RepoNotFound"}, b""
        if name in self.gated and authorization != f"Bearer {self.token}":
            return 403, {"X-Error-Code": "GatedRepo"}, b""
        found = self.files(kind, name, rest[1] if len(rest) > 1 else "main")
        if found is None:
            return 404, {"X-Error-Code": "RevisionNotFound"}, b""
        sha, files = found
        if rest[:1] == ["tree"]:
            tree = [{"type": "file", "path": path, "size": len(body), "oid": _etag(body)}
                    for path, body in files.items()]  # fmt: skip
            return 200, {}, json.dumps(tree).encode()
        if api:
            siblings = [{"rfilename": path} for path in files]
            about = {"id": name, "sha": sha, "siblings": siblings, "private": False}
            return 200, {}, json.dumps(about).encode()
        wanted = "/".join(rest[2:])
        if wanted not in files:
            return 404, {"X-Error-Code": "EntryNotFound", "X-Repo-Commit": sha}, b""
        body = files[wanted]
        return 200, {"ETag": f'"{_etag(body)}"', "X-Repo-Commit": sha}, body


def _etag(body):
    return hashlib.sha1(body).hexdigest()


@contextlib.contextmanager
def serving(hub):
    """The address of a hub."""

    class Handler(http.server.BaseHTTPRequestHandler):
        def do_GET(self):
            hub.asked.append(self.path)
            hub.got += [self.path] if self.command == "GET" else []
            status, headers, body = hub.answer(self.path, self.headers.get("authorization"))
            self.send_response(status)
            for key, value in (headers | {"Content-Length": str(len(body))}).items():
                self.send_header(key, value)
            self.end_headers()
            if self.command == "GET":
                self.wfile.write(body)

        do_HEAD = do_GET

        def log_message(self, *args):
            pass

    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield f"http://127.0.0.1:{server.server_port}"
        server.shutdown()


def point_at(monkeypatch, address, cache):
    """What HF_ENDPOINT and HF_HUB_CACHE do, in a process that has imported huggingface_hub."""
    monkeypatch.setattr(constants, "ENDPOINT", address)
    template = address + "/{repo_id}/resolve/{revision}/{filename}"
    monkeypatch.setattr(constants, "HUGGINGFACE_CO_URL_TEMPLATE", template)
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(cache))
    monkeypatch.setattr(constants, "HF_HUB_DISABLE_PROGRESS_BARS", True)
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
    monkeypatch.delenv("HF_TOKEN", raising=False)
