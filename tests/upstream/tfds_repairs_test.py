"""A download ends if the server stops sending."""

from __future__ import annotations

import contextlib
import socket
import types
from unittest import mock

import pytest
import requests
from tensorflow_datasets.core.download import downloader
from unrepaired import load_from_disk

from mtf_switch.upstream import tfds_repairs


def _request(module: types.ModuleType) -> dict[str, object]:
    """Returns the arguments with which a copy of TFDS's module asks for an address."""
    with (
        mock.patch.object(requests.Session, "get", side_effect=RuntimeError) as get,
        contextlib.suppress(RuntimeError),
        module._open_url("https://example.org/", verify=True),
    ):
        pass
    return get.call_args.kwargs


def test_downloads_have_a_time_out_and_few_attempts_and_unrepaired_ones_do_not() -> None:
    assert downloader.MAX_RETRIES == tfds_repairs._MORE_ATTEMPTS == 4
    assert _request(downloader) == {"stream": True, "verify": True, "timeout": (10, 60)}
    unrepaired = load_from_disk(downloader)
    assert unrepaired.MAX_RETRIES == 10
    assert _request(unrepaired) == {"stream": True, "verify": True}


def test_a_server_that_is_silent_ends_the_download() -> None:
    with socket.create_server(("127.0.0.1", 0)) as server:
        url = f"http://127.0.0.1:{server.getsockname()[1]}/data.zip"
        with (
            mock.patch.object(downloader, "MAX_RETRIES", 0),
            pytest.raises(requests.RequestException),
            downloader._open_url(url, timeout=0.2),
        ):
            pass
