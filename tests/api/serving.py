"""The real server of the API, in a thread."""

import threading
from collections.abc import Iterator
from contextlib import contextmanager

from deploy.process import free_port
from streams.settings import Settings
from streams.web import serve_until
from tests.api.conftest import with_section


@contextmanager
def served_at(settings: Settings) -> Iterator[str]:
    """The address under which the API is served inside the block."""
    port = free_port()
    stop, ready = threading.Event(), threading.Event()
    thread = threading.Thread(target=serve_until, args=(with_section(settings, "web", port=port), stop, ready.set))
    thread.start()
    try:
        assert ready.wait(90)
        yield f"http://127.0.0.1:{port}/api/v1"
    finally:
        stop.set()
        thread.join(60)
    assert not thread.is_alive()
