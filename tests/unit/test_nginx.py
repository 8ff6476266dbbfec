"""deploy/nginx/calltide.conf, as nginx itself takes it, and gone through: what comes in reaches the right process as it
came."""

import os
import shutil
import socket
import ssl
import subprocess
import threading
from collections.abc import Iterator
from contextlib import ExitStack
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from email.message import Message
from http.client import HTTPConnection, HTTPResponse
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from queue import Queue

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID
from websockets.sync.client import connect
from websockets.sync.server import ServerConnection, serve

from deploy.process import free_port
from tests.waiting import until

CONFIG = Path(__file__).parent.parent.parent / "deploy" / "nginx" / "calltide.conf"
NAME = "calls.example.com"
NGINX = shutil.which("nginx", path=f"{os.environ['PATH']}:/usr/sbin:/sbin")

pytestmark = pytest.mark.skipif(NGINX is None, reason="no nginx on the PATH")


@dataclass
class Behind:
    """What the web app's process is asked."""

    port: int = 0
    asked: list[tuple[str, str, Message]] = field(default_factory=list)
    pieces: Queue[bytes] = field(default_factory=Queue)


@pytest.fixture(scope="module")
def web() -> Iterator[Behind]:
    behind = Behind()

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def any(self) -> None:
            behind.asked.append((self.command, self.path, self.headers))
            left = int(self.headers.get("Content-Length", 0))
            while left and (piece := self.rfile.read1(left)):
                behind.pieces.put(piece)
                left -= len(piece)
            self.send_response(204)
            self.end_headers()

        do_GET = do_POST = do_PATCH = any

        def log_message(self, *_: object) -> None:
            pass

    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        behind.port = server.server_port
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
        thread.start()
        yield behind
        server.shutdown()
        thread.join(10)


def certificate(directory: Path) -> None:
    """A key, and a certificate that it has signed itself."""
    key, name = ec.generate_private_key(ec.SECP256R1()), x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, NAME)])
    now = datetime.now(UTC)
    made = (
        x509.CertificateBuilder(name, name, key.public_key(), x509.random_serial_number())
        .not_valid_before(now - timedelta(hours=1))
        .not_valid_after(now + timedelta(hours=1))
        .add_extension(x509.SubjectAlternativeName([x509.DNSName(NAME)]), critical=False)
        .sign(key, hashes.SHA256())
    )
    (directory / "certificate.pem").write_bytes(made.public_bytes(serialization.Encoding.PEM))
    (directory / "key.pem").write_bytes(
        key.private_bytes(serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption())
    )


def configuration(directory: Path, ports: dict[str, int]) -> Path:
    """The file with these ports and a certificate, as the part of a configuration that it is meant to be."""
    text = CONFIG.read_text()
    for old, new in {
        "listen 80;": f"listen 127.0.0.1:{ports['http']};",
        "listen 443 ssl;": f"listen 127.0.0.1:{ports['https']} ssl;",
        "127.0.0.1:8000;": f"127.0.0.1:{ports['web']};",
        "127.0.0.1:8765;": f"127.0.0.1:{ports['gateway']};",
        "127.0.0.1:8770;": f"127.0.0.1:{ports['serve']};",
        f"/etc/ssl/certs/{NAME}.pem": str(directory / "certificate.pem"),
        f"/etc/ssl/private/{NAME}.key": str(directory / "key.pem"),
    }.items():
        assert text.count(old) == 1, old
        text = text.replace(old, new)
    (directory / "calltide.conf").write_text(text)
    kinds = ("client_body", "proxy", "fastcgi", "uwsgi", "scgi")
    places = "".join(f"{kind}_temp_path {directory}/{kind};" for kind in kinds)
    whole = directory / "nginx.conf"
    whole.write_text(
        f"daemon off; master_process off; worker_processes 1; pid {directory}/pid; error_log stderr;"
        f"events {{}} http {{ access_log off; {places} include {directory}/calltide.conf; }}"
    )
    return whole


@dataclass(frozen=True)
class Front:
    """nginx at work."""

    http: int
    https: int
    trust: ssl.SSLContext

    def socket(self) -> ssl.SSLSocket:
        return self.trust.wrap_socket(socket.create_connection(("127.0.0.1", self.https), 10), server_hostname=NAME)

    def request(self, method: str, path: str, headers: dict[str, str]) -> HTTPResponse:
        """The answer to a request of which nothing but the head is sent."""
        head = "".join(f"{name}: {value}\r\n" for name, value in ({"Host": NAME} | headers).items())
        with self.socket() as connection:
            connection.sendall(f"{method} {path} HTTP/1.1\r\n{head}\r\n".encode())
            answer = HTTPResponse(connection, method=method)
            answer.begin()
            return answer


def named(name: str, stack: ExitStack) -> int:
    """The port of a websocket server that says who it is, and what it was asked for."""

    def tell(connection: ServerConnection) -> None:
        assert connection.request is not None
        connection.send(f"{name} {connection.request.path} {connection.request.headers['Host']}")

    server = stack.enter_context(serve(tell, "127.0.0.1", 0))
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    stack.callback(thread.join, 10)
    stack.callback(server.shutdown)
    return int(server.socket.getsockname()[1])


def listens(port: int) -> bool:
    with socket.socket() as trying:
        return trying.connect_ex(("127.0.0.1", port)) == 0


@pytest.fixture(scope="module")
def front(web: Behind, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Front]:
    directory = tmp_path_factory.mktemp("nginx")
    certificate(directory)
    with ExitStack() as stack:
        ports = {"http": free_port(), "https": free_port(), "web": web.port}
        ports |= {name: named(name, stack) for name in ("gateway", "serve")}
        whole = configuration(directory, ports)
        checked = subprocess.run([str(NGINX), "-t", "-c", str(whole)], check=False, capture_output=True, text=True)
        assert checked.returncode == 0 and "[warn]" not in checked.stderr, checked.stderr
        running = subprocess.Popen([str(NGINX), "-c", str(whole)])
        stack.callback(running.wait, 10)
        stack.callback(running.terminate)
        until(lambda: listens(ports["https"]), "nginx")
        trust = ssl.create_default_context(cafile=str(directory / "certificate.pem"))
        yield Front(ports["http"], ports["https"], trust)


def test_addresses_and_who_asks_go_on_as_they_came(front: Front, web: Behind) -> None:
    path = "/api/v1/calls/dir%2Fa%20call.wav//utterances?limit=5"
    assert front.request("GET", path, {"X-API-Key": "k", "X-Forwarded-For": "192.0.2.1"}).status == 204
    method, asked, headers = web.asked[-1]
    assert (method, asked) == ("GET", path)
    assert (headers["Host"], headers["X-API-Key"], headers["X-Forwarded-Proto"]) == (NAME, "k", "https")
    assert headers.get_all("X-Forwarded-For") == ["127.0.0.1"], "what who asks says of himself is not handed on"


def test_who_comes_without_tls_is_sent_to_where_it_is(front: Front) -> None:
    connection = HTTPConnection("127.0.0.1", front.http, timeout=10)
    connection.request("GET", "/api/v1/calls", headers={"Host": NAME})
    answer = connection.getresponse()
    assert (answer.status, answer.headers["Location"]) == (301, f"https://{NAME}/api/v1/calls")
    connection.close()


def test_one_request_has_a_limit_and_a_resumable_upload_has_none(front: Front, web: Behind) -> None:
    size = str(2 * 2**30)
    assert front.request("POST", "/api/v1/calls", {"Content-Length": size}).status == 413
    with front.socket() as connection:
        head = f"PATCH /api/v1/uploads/abc HTTP/1.1\r\nHost: {NAME}\r\nContent-Length: {size}\r\n\r\n"
        connection.sendall(head.encode() + b"first")
        # It is handed on before the rest is there.
        assert web.pieces.get(timeout=10) == b"first"
    assert web.asked[-1][:2] == ("PATCH", "/api/v1/uploads/abc")


@pytest.mark.parametrize(
    ("path", "process"),
    [
        ("/v1/scores?queue=billing", "gateway"),
        ("/microphone", "serve"),
        ("/twilio/KEY", "serve"),
        ("/audiohook", "serve"),
        ("/v1/listen?model=x", "serve"),
        ("/v1/asyncapi.json", "gateway"),
    ],
)
def test_websockets_reach_their_process(front: Front, path: str, process: str) -> None:
    raw = socket.create_connection(("127.0.0.1", front.https), 60)
    with connect(f"wss://{NAME}{path}", sock=raw, ssl=front.trust, open_timeout=60) as connection:
        assert connection.recv(60) == f"{process} {path} {NAME}"
