"""The examples of docs/api.md are run as they stand there, against the real server."""

import re
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest
from typer.testing import CliRunner

from streams.api.access import Access
from streams.cli import app
from streams.settings import Api, Settings
from tests.api.conftest import with_section
from tests.api.serving import served_at

DOCS = Path(__file__).parent.parent.parent / "docs" / "api.md"


@pytest.fixture(scope="module")
def address(api_settings: Settings) -> Iterator[str]:
    with served_at(with_section(api_settings, "api", keys={})) as found:
        yield found


@pytest.mark.skipif(shutil.which("curl") is None, reason="no curl on the PATH")
def test_the_examples_of_the_docs_work(address: str) -> None:
    blocks = re.findall(r"```sh\n(.*?)```", DOCS.read_text(), re.DOTALL)
    script = "\n".join(blocks)
    assert script.count("curl") >= 10
    local = script.replace("http://127.0.0.1:8000/api/v1", address)
    assert local != script
    done = subprocess.run(
        ["bash", "-euo", "pipefail", "-c", local], check=False, capture_output=True, text=True, timeout=60
    )
    assert done.returncode == 0, done.stderr
    assert '"call_id":"billing-4711"' in done.stdout and '"charged twice"' in done.stdout


def test_every_address_of_the_docs_is_one(address: str, api_settings: Settings) -> None:
    from streams.api.app import create_app

    there = {
        f"{method.upper()} {re.sub(r'{(?!utterance)[a-z_]+}', '{id}', path.removeprefix('/api/v1'))}"
        for path, operations in create_app(api_settings).openapi()["paths"].items()
        for method in operations
    }
    named = set(re.findall(r"^\| `((?:GET|POST) /[^`?]*)", DOCS.read_text(), re.MULTILINE))
    assert len(named) > 10 and named <= there, named - there


def test_a_key_that_was_made_lets_in() -> None:
    made = CliRunner().invoke(app, ["key", "floor", "--role", "supervisor", "--tenant", "o'neill"])
    assert made.exit_code == 0, made.output
    key = made.output.splitlines()[0].removeprefix("key: ")
    echoed = subprocess.run(
        ["bash", "-c", made.output.splitlines()[2] + '; printf %s "$CALLTIDE_API__KEYS"'],
        check=True,
        capture_output=True,
        text=True,
    )
    keys = Api.model_validate_json(f'{{"keys": {echoed.stdout}}}').keys
    found = Access(with_section(Settings(), "api", keys=keys)).of(key).who
    assert (found.tenant, found.role, found.name) == ("o'neill", "supervisor", "floor")
