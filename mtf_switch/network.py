"""Checks within seconds, instead of minutes, whether a server can be reached.

Downloads retry many times, and a silent name server blocks even the first attempt. Code that is
about to use the network therefore asks here first.
"""

from __future__ import annotations

import http.client
import ssl
import threading
import time
import urllib.error
import urllib.parse
import urllib.request
from collections.abc import Iterable

from mtf_switch.errors import UserError

# The time that a server has to answer.
SECONDS = 10.0
# The server for gs:// addresses.
GOOGLE_CLOUD_STORAGE = "https://storage.googleapis.com"


def find_reachable(urls: Iterable[str], seconds: float = SECONDS) -> set[str]:
    """Asks the servers of web addresses for an answer, all at once, through the user's proxies.

    Args:
      urls: Addresses that start with http:// or https://. Only their servers are asked.
      seconds: The total time to wait for all answers.

    Returns:
      The servers that answered, such as "https://example.org". An error counts as an answer.
    """
    reachable: set[str] = set()

    def ask(server: str) -> None:
        if _answers(server, seconds):
            reachable.add(server)

    threads = [
        # A thread that hangs in a name look-up must not keep the program alive.
        threading.Thread(target=ask, args=[server], daemon=True)
        for server in {get_server(url) for url in urls}
    ]
    for thread in threads:
        thread.start()
    deadline = time.monotonic() + seconds
    for thread in threads:
        thread.join(max(0.0, deadline - time.monotonic()))
    return set(reachable)


def get_server(url: str) -> str:
    """Returns the server of a web address, such as "https://example.org"."""
    parts = urllib.parse.urlsplit(url)
    return f"{parts.scheme}://{parts.netloc}"


def _answers(server: str, seconds: float) -> bool:
    request = urllib.request.Request(f"{server}/", method="HEAD")
    try:
        with urllib.request.urlopen(request, timeout=seconds):
            return True
    except urllib.error.HTTPError:
        return True
    except urllib.error.URLError as error:
        # The server answered. The download will report a bad certificate.
        return isinstance(error.reason, ssl.SSLError)
    except http.client.HTTPException:
        return True
    except OSError:
        return False


def check_address(path: str, advice: str, seconds: float = SECONDS) -> None:
    """Checks that the server of a gs:// address can be reached; other paths pass.

    Args:
      path: A path or address.
      advice: A sentence that says what to do otherwise.
      seconds: How long to wait for an answer.

    Raises:
      UserError: If the server does not answer.
    """
    if path.startswith("gs://") and not find_reachable([GOOGLE_CLOUD_STORAGE], seconds):
        raise UserError(
            f"{path} cannot be read: this machine gets no answer from {GOOGLE_CLOUD_STORAGE} "
            f"within {seconds:g} seconds. {advice}"
        )
