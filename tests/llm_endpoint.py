"""A real HTTP server that speaks /v1/chat/completions as language models' servers do, faults included.

Nothing here is imported by the product. It knows no language: what it says of a call is made of the first words of its
first utterances.
"""

import json
import re
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

NOTHING: dict[str, Any] = {
    "summary": [], "reason": None, "topics": [], "issues": [], "objections": [], "outcome": None, "action_items": [],
    "resolution": {"resolved": "unknown", "citations": []}, "coaching": [], "quiz": [],
}  # fmt: skip
_LINE = re.compile(r"^\[(\d+)\] \S+ \S+: (.*)$", re.MULTILINE)


def answer_for(request: dict[str, Any]) -> dict[str, Any]:
    """One statement of the call in the request, with a citation that holds; nothing, if there is no call."""
    found = _LINE.search(request["messages"][1]["content"]) if len(request["messages"]) > 1 else None
    if found is None:
        return NOTHING
    cited = [{"utterance": int(found[1]), "quote": " ".join(found[2].split()[:3])}]
    return NOTHING | {"summary": [{"text": "Somebody speaks.", "citations": cited}]}


def completion(content: str, finish_reason: str = "stop", **more: Any) -> dict[str, Any]:
    """The body of an answer."""
    usage = {"prompt_tokens": 1_000, "completion_tokens": 100, "total_tokens": 1_100}
    message = {"role": "assistant", "content": content}
    choice = {"index": 0, "message": message, "finish_reason": finish_reason}
    return {"id": "1", "object": "chat.completion", "model": "small-0.1", "choices": [choice], "usage": usage} | more


Behave = Callable[[BaseHTTPRequestHandler, dict[str, Any]], None]


def says(content: str, **more: Any) -> Behave:
    """Answer with this."""
    return lambda handler, _request: write(handler, 200, json.dumps(completion(content, **more)).encode())


def status(code: int, body: bytes = b"", **headers: str) -> Behave:
    """Answer with this status."""
    return lambda handler, _request: write(handler, code, body, **headers)


def silent(handler: BaseHTTPRequestHandler, _request: dict[str, Any]) -> None:
    """Take the request and say nothing for longer than anybody waits here."""
    time.sleep(1.0)
    handler.close_connection = True


def drips(handler: BaseHTTPRequestHandler, _request: dict[str, Any]) -> None:
    """Begin an answer that comes byte by byte and never ends."""
    handler.send_response(200)
    handler.send_header("Content-Length", "1000")
    handler.end_headers()
    try:
        for _ in range(30):
            handler.wfile.write(b" ")
            time.sleep(0.05)
    except OSError:
        pass
    handler.close_connection = True


def breaks(handler: BaseHTTPRequestHandler, _request: dict[str, Any]) -> None:
    """Half of an answer, and the connection is gone."""
    handler.send_response(200)
    handler.send_header("Content-Length", "1000")
    handler.end_headers()
    handler.wfile.write(b'{"choices": [{"mess')
    handler.close_connection = True


def well(handler: BaseHTTPRequestHandler, request: dict[str, Any]) -> None:
    """A good answer."""
    write(handler, 200, json.dumps(completion(json.dumps(answer_for(request)))).encode())


def write(handler: BaseHTTPRequestHandler, code: int, body: bytes, **headers: str) -> None:
    """A whole answer."""
    handler.send_response(code)
    for name, value in headers.items():
        handler.send_header(name.replace("_", "-"), value)
    handler.send_header("Content-Length", str(len(body)))
    handler.end_headers()
    handler.wfile.write(body)


class LanguageServer:
    """Behaves as it is told, in turn, then well."""

    def __init__(self) -> None:
        self.behaviour: list[Behave] = []
        self.always: Behave = well
        self.requests: list[dict[str, Any]] = []
        self.probes = 0
        self.headers: list[dict[str, str]] = []
        self.busiest = 0
        """Most requests at one time."""
        now: list[int] = []
        server = self

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def do_POST(self) -> None:
                request = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
                now.append(1)
                server.busiest = max(server.busiest, len(now))
                try:
                    assert self.path == "/v1/chat/completions"
                    if len(request["messages"]) == 1:
                        server.probes += 1
                        server.always(self, request)
                        return
                    server.requests.append(request)
                    server.headers.append(dict(self.headers.items()))
                    (server.behaviour.pop(0) if server.behaviour else server.always)(self, request)
                finally:
                    now.pop()

            def log_message(self, *_: object) -> None:
                pass

        self.server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.server.daemon_threads = True
        self.url = f"http://127.0.0.1:{self.server.server_address[1]}/v1"
        threading.Thread(target=self.server.serve_forever, args=(0.01,), daemon=True).start()


@contextmanager
def language_server() -> Iterator[LanguageServer]:
    """One on a free port of loopback."""
    made = LanguageServer()
    try:
        yield made
    finally:
        made.server.shutdown()
        made.server.server_close()
