"""The real server of the API, in a thread."""

import socket
import threading
from collections.abc import Iterator
from contextlib import contextmanager

from streams.settings import Settings
from streams.web import serve_until
from tests.api.conftest import with_section


@contextmanager
def served_at(settings: Settings) -> Iterator[str]:
    """The address under which the API is served inside the block."""
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    stop, ready = threading.Event(), threading.Event()
    thread = threading.Thread(target=serve_until, args=(with_section(settings, "web", port=port), stop, ready.set))
    thread.start()
    try:
        assert ready.wait(30)
        yield f"http://127.0.0.1:{port}/api/v1"
    finally:
        stop.set()
        thread.join(10)
    assert not thread.is_alive()
