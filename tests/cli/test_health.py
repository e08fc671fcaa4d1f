import http.server
import socketserver
import subprocess
import sys
import threading

import pytest

from dispatcher.cli import run

ANSWERS = {"/healthz": (200, b'{"status":"alive"}'), "/readyz": (503, b'{"status":503}')}


class Answering(http.server.BaseHTTPRequestHandler):
    def do_GET(self):
        status, body = ANSWERS[self.path]
        self.send_response(status)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def address_string(self):
        return "a Unix socket has none"

    def log_message(self, *args):
        pass


@pytest.fixture(params=["tcp", "unix"])
def url(request, socket_dir):
    server: socketserver.BaseServer
    if request.param == "tcp":
        server = http.server.HTTPServer(("127.0.0.1", 0), Answering)
        where = f"http://127.0.0.1:{server.server_address[1]}"
    else:
        server = socketserver.UnixStreamServer(str(socket_dir / "s"), Answering)
        where = f"unix:{socket_dir / 's'}"
    with server:
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
        thread.start()
        yield where
        server.shutdown()
        thread.join()


def test_it_takes_work_or_it_only_answers(url, capsys):
    assert run(["health", "--url", url]) == 1
    assert "503" in capsys.readouterr().out
    assert run(["health", "--alive", "--url", url]) == 0
    assert "alive" in capsys.readouterr().out


def test_nobody_is_there(socket_dir, capsys):
    for where in ("http://127.0.0.1:1", f"unix:{socket_dir}/none"):
        assert run(["health", "--url", where]) == 75
        assert where in capsys.readouterr().err


@pytest.mark.parametrize(
    "url", ["127.0.0.1:8700", "ftp://127.0.0.1", "http://a:b", "http://", "http://.."]
)
def test_no_address_at_all(url):
    assert run(["health", "--url", url]) == 64


def test_the_address_comes_from_the_environment(monkeypatch, capsys):
    monkeypatch.setenv("DISPATCHER_URL", "http://127.0.0.1:2")
    assert run(["health"]) == 75
    assert "127.0.0.1:2" in capsys.readouterr().err


def test_it_starts_without_what_only_a_sidecar_needs():
    """A container's health check starts it every few seconds."""
    heavy = {"aiohttp", "anyio", "asyncio", "prometheus_client", "rich", "sqlite3"}
    code = f"import sys, dispatcher.cli; print(sorted({heavy} & set(sys.modules)))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"
