"""What the tests of the extra `torch` share: without it they skip and say so; with it they run on tiny models of the
architectures that the loaders are for, built and saved here with random weights.
"""

import sys
import time
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from threading import Thread
from types import ModuleType, SimpleNamespace
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray


@pytest.fixture(scope="session")
def tiny(tmp_path_factory: pytest.TempPathFactory) -> Any:
    """The module that builds tiny models, and a folder with those that several tests use."""
    pytest.importorskip("torch", reason="torch is not installed: make test-torch")
    pytest.importorskip("transformers", reason="transformers is not installed: make test-torch")
    import torch

    from tests.torch import tiny_models

    torch.set_num_threads(1)
    return tiny_models.Tiny(tmp_path_factory.mktemp("tiny"))


_LAZY: dict[str, ModuleType] = {}


@pytest.fixture(scope="module")
def speechbrain() -> Iterator[None]:
    """SpeechBrain, or a skip. A torchaudio that does not fit its torch fails, as it should.

    SpeechBrain's optional parts lie in `sys.modules` as objects that raise when they are looked at. Hypothesis looks at
    all of them, so they are taken away for the other tests.
    """
    pytest.importorskip("torch", reason="torch is not installed: make test-torch")
    pytest.importorskip("speechbrain", reason="speechbrain is not installed: make test-torch")
    from speechbrain.utils.importutils import LazyModule

    sys.modules.update(_LAZY)
    yield
    _LAZY.update({name: module for name, module in sys.modules.items() if isinstance(module, LazyModule)})
    for name in _LAZY:
        sys.modules.pop(name, None)


@pytest.fixture(scope="session")
def voices() -> list[NDArray[np.float32]]:
    """Five utterances of three lengths, mono 16 kHz, by a seeded generator."""
    generator = np.random.default_rng(5)
    return [
        (0.1 * generator.standard_normal(length)).astype(np.float32) for length in (8_000, 12_345, 8_000, 20_000, 8_000)
    ]


class _Refusing(BaseHTTPRequestHandler):
    """A hub that has nothing for anybody, and says so as the real one does."""

    status, code = 404, "RepoNotFound"

    def do_GET(self) -> None:
        self.send_response(self.status)
        self.send_header("X-Error-Code", self.code)
        self.send_header("Content-Length", "0")
        self.end_headers()

    do_HEAD = do_GET

    def log_message(self, *_: object) -> None:
        pass


@pytest.fixture
def refusing_hub(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[type[_Refusing]]:
    """The hub client speaks to a server that refuses; the test may change how."""
    from huggingface_hub import constants

    class Handler(_Refusing):
        pass

    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        url = f"http://127.0.0.1:{server.server_port}"
        monkeypatch.setattr(constants, "ENDPOINT", url)
        monkeypatch.setattr(constants, "HUGGINGFACE_CO_URL_TEMPLATE", url + "/{repo_id}/resolve/{revision}/{filename}")
        monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "hub"))
        monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
        thread = Thread(target=server.serve_forever)
        thread.start()
        yield Handler
        server.shutdown()
        thread.join()


@pytest.fixture
def no_network(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """The hub's address is a port on which nobody listens, and nothing was fetched before. The client's waits between
    its attempts, 23 s for each file, are left out."""
    from huggingface_hub import constants
    from huggingface_hub.utils import _http

    monkeypatch.setattr(_http, "time", SimpleNamespace(**{**vars(time), "sleep": lambda _: None}))

    monkeypatch.setattr(constants, "ENDPOINT", "http://127.0.0.1:9")
    template = "http://127.0.0.1:9/{repo_id}/resolve/{revision}/{filename}"
    monkeypatch.setattr(constants, "HUGGINGFACE_CO_URL_TEMPLATE", template)
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "hub"))
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
