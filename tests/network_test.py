"""Checks of whether a server can be reached, with local servers."""

from __future__ import annotations

import http.server
import socket
import threading
import time
from collections.abc import Iterator

import pytest

from mtf_switch import network
from mtf_switch.errors import UserError


class _NotFound(http.server.BaseHTTPRequestHandler):
    def do_HEAD(self) -> None:
        self.send_error(404)

    def log_message(self, *_) -> None:
        pass


@pytest.fixture
def answering() -> Iterator[str]:
    """A server that has no page."""
    with http.server.HTTPServer(("127.0.0.1", 0), _NotFound) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield f"http://127.0.0.1:{server.server_port}"
        server.shutdown()


@pytest.fixture
def silent() -> Iterator[str]:
    """A server that accepts connections and never answers."""
    with socket.create_server(("127.0.0.1", 0)) as server:
        yield f"http://127.0.0.1:{server.getsockname()[1]}"


@pytest.fixture
def refusing() -> str:
    """An address where nobody listens."""
    with socket.create_server(("127.0.0.1", 0)) as server:
        return f"http://127.0.0.1:{server.getsockname()[1]}"


def test_an_error_is_an_answer_and_silence_is_none(
    answering: str, silent: str, refusing: str
) -> None:
    urls = [f"{answering}/data.zip", f"{answering}/more.zip", f"{silent}/a", f"{refusing}/b"]
    started = time.monotonic()
    assert network.find_reachable(urls, seconds=0.5) == {answering}
    assert time.monotonic() - started < 5


def test_a_name_server_that_is_silent_does_not_block(monkeypatch: pytest.MonkeyPatch) -> None:
    never = threading.Event()
    monkeypatch.setattr(socket, "getaddrinfo", lambda *_, **__: never.wait())
    started = time.monotonic()
    assert network.find_reachable(["https://example.org/x"], seconds=0.2) == set()
    assert time.monotonic() - started < 5
    never.set()


def test_an_address_that_is_out_of_reach_is_refused_with_what_to_do(
    refusing: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(network, "GOOGLE_CLOUD_STORAGE", refusing)
    network.check_address("runs/base", "Copy it.")
    with pytest.raises(UserError) as raised:
        network.check_address("gs://bucket/base", "Copy it.", seconds=0.5)
    assert str(raised.value) == (
        f"gs://bucket/base cannot be read: this machine gets no answer from {refusing} within "
        "0.5 seconds. Copy it."
    )


def test_a_server_that_is_in_reach_is_not_refused(
    answering: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(network, "GOOGLE_CLOUD_STORAGE", answering)
    network.check_address("gs://bucket/base", "Copy it.")
