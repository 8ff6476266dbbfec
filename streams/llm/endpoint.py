"""One request to an OpenAI-compatible endpoint, and what its faults mean.

`requests` rather than the SDK `openai`: what is used of it is one POST, and its retries would wait where nobody polls
Kafka.
"""

import time
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Final

import requests
from pydantic import BaseModel, ValidationError
from urllib3.exceptions import HTTPError

from streams.llm import answers
from streams.retry_after import retry_after_s
from streams.settings import Llm

CONNECT_S: Final = 10.0
LARGEST: Final = 4_000_000
"""Bytes of an answer; one of 10,000 tokens has some 60,000."""
BUSY: Final = frozenset({429, 503})
AGAIN: Final = frozenset({408, 409, 425})
"""Of the answers 4xx, those that another try may change."""
SHOWN: Final = 300
"""Characters of an error that are told."""

Message = dict[str, str]


class Away(Exception):
    """No answer, or none that is one: another try may help. `busy`: it says so itself, the call has no part in it."""

    def __init__(self, why: str, wait_s: float = 0.0, busy: bool = False) -> None:
        super().__init__(why)
        self.wait_s, self.busy = wait_s, busy


class Refused(Exception):
    """No further try of the same would help: the call is to blame, or the settings."""


@dataclass(frozen=True, slots=True)
class Reply:
    """What the model wrote."""

    text: str
    complete: bool
    """It ended of itself, not by a limit or a filter."""
    ended: str
    """Why, in the endpoint's words."""
    model: str
    tokens_in: int | None
    tokens_out: int | None


class _Said(BaseModel):
    content: str | None = None
    refusal: str | None = None


class _Choice(BaseModel):
    message: _Said
    finish_reason: str | None = None


class _Usage(BaseModel):
    prompt_tokens: int = 0
    completion_tokens: int = 0


class _Completion(BaseModel):
    choices: list[_Choice]
    model: str | None = None
    usage: _Usage | None = None


class Endpoint:
    """The endpoint of the settings. Threads may share it."""

    def __init__(self, settings: Llm) -> None:
        self._settings = settings
        self._address = settings.url.rstrip("/") + "/chat/completions"

    def ask(self, messages: Sequence[Message]) -> Reply:
        """One request. Raises Away or Refused."""
        settings = self._settings
        body: dict[str, Any] = {
            "model": settings.model,
            "messages": list(messages),
            "temperature": settings.temperature,
            "max_tokens": settings.answer_tokens,
        }
        if settings.output == "json_object":
            body["response_format"] = {"type": "json_object"}
        elif settings.output == "json_schema":
            schema = {"name": "insights", "strict": True, "schema": answers.schema()}
            body["response_format"] = {"type": "json_schema", "json_schema": schema}
        body |= settings.request
        return self._post({name: value for name, value in body.items() if value is not None})

    def fault(self) -> str:
        """Whether it answers at all, with these settings: empty, or what is wrong."""
        try:
            self.ask([{"role": "user", "content": 'Answer with the JSON object {"summary": []}.'}])
        except (Away, Refused) as error:
            return str(error)
        return ""

    def _authorize(self, request: requests.PreparedRequest) -> requests.PreparedRequest:
        # As a callable: otherwise requests takes a password from .netrc instead.
        if self._settings.key:
            request.headers["Authorization"] = f"Bearer {self._settings.key}"
        return request

    def _post(self, body: dict[str, Any]) -> Reply:
        seconds = self._settings.timeout_s
        deadline = time.monotonic() + seconds
        try:
            # A redirect would carry customers' words to where nobody said they may go.
            with requests.post(
                self._address,
                json=body,
                auth=self._authorize,
                timeout=(min(CONNECT_S, seconds), seconds),
                allow_redirects=False,
                stream=True,
            ) as answer:
                content = _content(answer, deadline)
        except requests.Timeout:
            raise Away(f"no answer within {seconds:g} s") from None
        except (requests.RequestException, HTTPError, OSError) as error:
            raise Away(f"{type(error).__name__}: no answer") from None
        status = answer.status_code
        if status in BUSY:
            raise Away(f"it answers {status}", retry_after_s(answer.headers), busy=True)
        if status >= 500 or status in AGAIN:
            raise Away(f"it answers {status}{_reason(content)}")
        if status != 200:
            raise Refused(f"it answers {status}{_reason(content)}")
        return _reply(content, self._settings.model)


def _content(answer: requests.Response, deadline: float) -> bytes:
    """The whole body. Raises Away when it takes too long or too much."""
    content = bytearray()
    while chunk := answer.raw.read1(65_536, decode_content=True):
        content += chunk
        if time.monotonic() > deadline:
            raise Away("the answer took too long")
        if len(content) > LARGEST:
            raise Away(f"the answer has more than {LARGEST:,} bytes")
    return bytes(content)


def _reply(content: bytes, model: str) -> Reply:
    try:
        completion = _Completion.model_validate_json(content)
    except ValidationError:
        raise Away("what it answers is no chat completion") from None
    if not completion.choices:
        raise Away("its answer has no choices")
    choice = completion.choices[0]
    ended = choice.finish_reason or "stop"
    if choice.message.refusal:
        ended = "refusal"
    usage = completion.usage
    return Reply(
        text=choice.message.content or "",
        complete=ended in ("stop", "eos"),
        ended=ended,
        model=completion.model or model,
        tokens_in=usage.prompt_tokens if usage else None,
        tokens_out=usage.completion_tokens if usage else None,
    )


def _reason(content: bytes) -> str:
    """What the endpoint says to it, in one line."""
    text = " ".join(content.decode(errors="replace").split())
    return f": {text[:SHOWN]}" if text else ""
