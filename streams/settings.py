"""All settings, in one class. Each comes from its default, then a `.env` file, then `CALLTIDE_*` variables.

A nested setting is written with two underscores: `CALLTIDE_ASR__MODEL=large-v3`. Unknown names and wrong values stop
the program with a line that says which. A changer must know: the table of settings in the README is made from this
class (`calltide settings --markdown`), and docker-compose.yml is tested against it.
"""

import base64
import difflib
import json
import os
from functools import cache
from pathlib import Path
from types import UnionType
from typing import Annotated, Any, Literal, Union, get_args, get_origin

from dotenv import dotenv_values
from pydantic import BaseModel, ConfigDict, Field, StringConstraints, ValidationError, field_validator
from pydantic_settings import BaseSettings, PydanticBaseSettingsSource, SettingsConfigDict, SettingsError

from processors.asr import Config as Asr
from processors.diarization import Config as Diarization
from processors.emotion import Config as Emotion
from processors.insights import Config as Insights
from processors.metrics import Config as CallMetrics
from processors.outlook_file import NONE
from processors.rules import Config as Rules
from processors.sentiment import Config as Sentiment
from processors.vad import Config as Vad
from schemas.errors import CalltideError
from schemas.events import Role
from schemas.topics import DEFAULT_PARTITIONS, Topic, topics
from streams.profiles import Profile, ProfileSource

PREFIX = "CALLTIDE_"
DELIMITER = "__"


class _Section(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


class Kafka(_Section):
    """Where Kafka is and how it is used."""

    bootstrap_servers: str | None = Field(None, description="host:port,… of a cluster; none: the embedded broker")
    client: dict[str, str] = Field({}, description="further librdkafka settings as JSON, such as SASL and TLS")
    partitions: int = Field(DEFAULT_PARTITIONS, ge=1, le=10_000, description="partitions of every topic keyed by call")
    retention_hours: int = Field(168, ge=1, description="how long audio and events stay in Kafka")
    group_prefix: str = Field("calltide", min_length=1, description="prefix of consumer groups and transactional ids")
    session_timeout_ms: int = Field(6_000, ge=1_000, description="a worker silent for so long loses its partitions")


class Broker(_Section):
    """The embedded Kafka broker."""

    port: int = Field(9092, ge=0, le=65_535, description="port on loopback")
    heap_mb: int = Field(384, ge=192, description="Java heap")


class ClickHouse(_Section):
    """Where scores are kept."""

    url: str | None = Field(None, description="http(s)://user:password@host:port of a server; none: the embedded chDB")
    port: int = Field(8123, ge=1, le=65_535, description="port of the embedded one on loopback")
    user: str = Field("calltide", min_length=1, description="who may write to the embedded one; all others only read")
    password: str = Field("", description="of the embedded one: if set, who reads and who writes must bring it")
    database: str = Field("calltide", pattern=r"^[A-Za-z_][A-Za-z0-9_]*$", description="database")
    retention_days: int = Field(
        0, ge=0, le=36_500, description="rows of calls that began earlier are deleted; 0: never"
    )


class Sink(_Section):
    """Kafka to ClickHouse."""

    batch_rows: int = Field(10_000, ge=1, description="most rows in one insert")
    batch_ms: int = Field(500, ge=10, description="longest wait for a batch to fill")


class Gateway(_Section):
    """The websocket gateway."""

    host: str = Field("127.0.0.1", description="address to listen on")
    port: int = Field(8765, ge=0, le=65_535, description="port to listen on")
    queue: int = Field(1_000, ge=1, description="messages kept for one slow client before the policy applies")
    slow_clients: Literal["conflate", "close"] = Field(
        "close", description="close: code 1013, resume by cursor; conflate: skip to the newest and count"
    )
    compression: bool = Field(
        False, description="permessage-deflate for clients that offer it: less to send for more to compute"
    )
    history_minutes: int = Field(60, ge=0, description="how far back running calls are looked for at start")


class Web(_Section):
    """The web app and the API."""

    host: str = Field("127.0.0.1", description="address to listen on")
    port: int = Field(8000, ge=0, le=65_535, description="port to listen on")
    sockets: str = Field(
        "",
        pattern=r"^(wss?://[A-Za-z0-9.:\[\]-]+)?$",
        description="where pages find the websockets behind a proxy, such as wss://calls.example.com; empty: gateway "
        "and `calltide serve` at their own ports",
    )


class ApiKey(_Section):
    """Who has a key of the API; `calltide key` makes one."""

    sha256: str = Field(pattern=r"^[0-9a-f]{64}$", description="of the key")
    tenant: str | None = Field(None, min_length=1, description="of this tenant only; none: of all")
    role: Literal["viewer", "supervisor", "admin", "ingest"] = "viewer"


class Api(_Section):
    """The HTTP API (docs/api.md)."""

    keys: dict[Annotated[str, StringConstraints(pattern=r"^[\w.@-]{1,64}$")], ApiKey] = Field(
        {},
        description='keys by name: {"floor": {"sha256": "…", "tenant": "acme", "role": "viewer"}}; without keys and '
        "JWTs: only programs on this machine may ask",
    )
    key: str = Field("", description="the key that `calltide listen` and `calltide demo` send, where one is asked for")
    jwks_url: str = Field("", pattern=r"^(https?://.+)?$", description="where the issuer of JWTs publishes its keys")
    jwt_issuer: str = Field("", description="who made the tokens (iss)")
    jwt_audience: str = Field("", description="whom the tokens are for (aud)")
    jwt_tenant_claim: str = Field("tenant", min_length=1, description="claim of a token that names its tenant")
    jwt_role_claim: str = Field(
        "role", min_length=1, description="claim that is one of the roles of keys, or a list with one of them"
    )
    requests_per_minute: int = Field(1_200, ge=0, description="of one key, and as many at once; 0: any number")
    audio_cache_mb: int = Field(1_024, ge=1, description="disk for the audio of calls that was asked for lately")
    cors_origins: tuple[str, ...] = Field((), description="web pages from elsewhere that may ask: https://host:port")


class Ingest(_Section):
    """Files to Kafka."""

    packet_ms: int = Field(100, ge=20, le=1_000, description="length of an audio packet")


class Uploads(_Section):
    """Recordings over the API (docs/uploads.md)."""

    max_mb: int = Field(100, ge=1, description="largest recording in one request")
    resumable_gb: int = Field(100, ge=1, description="largest recording by the tus protocol")
    longest_hours: float = Field(24.0, gt=0, le=1_000, description="longest recording")
    chunk_s: int = Field(60, ge=30, le=60, description="how much of a recording goes into Kafka at one time")
    keep_hours: int = Field(24, ge=1, description="an upload that is not finished is removed after so long")
    store: str = Field(
        "",
        pattern=r"^(s3://[^/\s]+(/\S*)?)?$",
        description="s3://bucket/prefix where recordings may be brought by presigned addresses; empty: nowhere",
    )


class Archive(_Section):
    """Calls outside Kafka."""

    url: str | None = Field(
        None, description="directory, or s3://bucket/prefix (any of fsspec); none: in CALLTIDE_HOME"
    )
    key: str = Field("", description="32 bytes in base64: what is archived is encrypted with it (AES-256-GCM-SIV)")


class Serve(_Section):
    """Calls from phone systems."""

    host: str = Field("127.0.0.1", description="address to listen on")
    port: int = Field(8770, ge=0, le=65_535, description="port of the websocket protocols")
    audiosocket_port: int = Field(8771, ge=0, le=65_535, description="port of AudioSocket")
    audiosocket_networks: tuple[str, ...] = Field(
        ("127.0.0.0/8", "::1/128"), description="from where AudioSocket, which has no keys, may come"
    )
    audiosocket_role: Role = Field(
        "unknown", description="who is heard on AudioSocket's one channel; unknown: both, told apart by voice"
    )
    keys: dict[str, dict[str, str]] = Field(
        {}, description='keys by protocol and tenant: {"twilio": {"acme": "…"}}; {"twilio": {}} lets nobody in'
    )
    open: tuple[str, ...] = Field(
        (), description="protocols that take calls without a key from other machines too, and are meant to"
    )
    audiohook_secrets: dict[str, str] = Field(
        {}, description="client secret (base64) by API key of Genesys: who has one must sign"
    )
    twilio_auth_token: str = Field("", description="auth token of the Twilio account: if set, streams must be signed")
    calls: int = Field(2_000, ge=1, description="most calls at one time")
    call_minutes: int = Field(240, ge=1, description="longest call")
    idle_s: float = Field(60.0, gt=0, description="a connection that says nothing for so long is closed")
    handshake_s: float = Field(10.0, gt=0, description="how long a new connection may take to begin a call")
    grace_s: float = Field(10.0, ge=0, description="how long a call waits for its broken connection to come back")
    message_kb: int = Field(64, ge=1, le=16_384, description="longest message")
    buffer_s: float = Field(
        10.0, gt=0, description="audio kept for each call while Kafka is slow; then the oldest goes"
    )


class Runtime(_Section):
    """The loop of every stage."""

    reduce_at_lag_s: float = Field(
        5.0, ge=0, description="seconds behind live calls from which ASR hears with less effort; 0: never"
    )
    interim: Literal["never", "asked", "always"] = Field(
        "asked", description="words before an utterance is finished: for no call, for those that ask, or for all"
    )
    interim_every_ms: int = Field(300, ge=100, description="shortest time between two revisions of an utterance")


class Endpoint(_Section):
    """One receiver of webhooks."""

    url: str = Field(pattern=r"^https?://")
    secret: str = Field(min_length=8, description="whsec_… : signs what is sent, as Standard Webhooks says")
    kinds: tuple[Literal["alert", "category", "call_ended", "insights", "evaluation"], ...] = Field(
        ("alert",), min_length=1
    )
    tenants: tuple[str, ...] = Field((), description="of these only; empty: all")
    severity: Literal["info", "warning", "critical"] = Field("info", description="of alerts: this and above")
    timeout_s: float = Field(10.0, gt=0, le=60)
    give_up_s: float = Field(3_600.0, ge=0, description="how old an event may grow before it is a dead letter")

    @field_validator("secret")
    @classmethod
    def _is_base64(cls, secret: str) -> str:
        try:
            base64.b64decode(secret.removeprefix("whsec_"), validate=True)
        except ValueError:
            raise ValueError("a secret is whsec_ and base64; `openssl rand -base64 32` makes one") from None
        return secret


class Webhooks(_Section):
    """Who is told of alerts and ended calls."""

    endpoints: dict[Annotated[str, StringConstraints(pattern=r"^[A-Za-z0-9_-]{1,64}$")], Endpoint] = Field(
        {},
        description='receivers by name: {"ops": {"url": "https://…", "secret": "whsec_…", "severity": "warning"}} '
        "(docs/webhooks.md)",
    )


class Llm(_Section):
    """Insights by a language model (docs/llm.md)."""

    url: str = Field(
        "",
        pattern=r"^(https?://.+)?$",
        description="OpenAI-compatible endpoint, such as http://127.0.0.1:8000/v1; empty: none is asked",
    )
    key: str = Field("", description="its key, if it wants one")
    model: str = Field("", description="the model, as the endpoint calls it")
    timeout_s: float = Field(120.0, gt=0, le=3_600, description="how long an answer may take")
    concurrency: int = Field(2, ge=1, le=64, description="calls that are asked about at one time")
    output: Literal["json_schema", "json_object", "none"] = Field(
        "json_schema", description="how the endpoint is made to answer in JSON; none: only told to"
    )
    temperature: float = Field(0.0, ge=0, le=2, description="of the answers; 0: the likeliest")
    context_tokens: int = Field(
        32_000, ge=4_000, description="of prompt and answers; of a call that does not fit the middle is left out"
    )
    answer_tokens: int = Field(4_000, ge=500, description="longest answer")
    request: dict[str, Any] = Field({}, description="more fields of the request, or others; null leaves one out")
    tokens_per_day: int = Field(
        0, ge=0, description="in and out, by UTC; then calls wait for the next day; 0: no limit"
    )
    cost_per_day: float = Field(0.0, ge=0, description="the same by cost; needs the prices; 0: no limit")
    price_in: float = Field(0.0, ge=0, description="of a million tokens that it reads")
    price_out: float = Field(0.0, ge=0, description="of a million tokens that it writes")


class Metrics(_Section):
    """Prometheus metrics and health."""

    host: str = Field("127.0.0.1", description="address to listen on")
    port: int = Field(0, ge=0, le=65_535, description="port for /metrics of a process; 0: none")


class Grafana(_Section):
    """Where dashboards are pushed to (docs/grafana.md)."""

    url: str = Field("http://127.0.0.1:3000", description="Grafana's address")
    token: str = Field("", description="token of a service account with the role Admin; or a user and a password")
    user: str = Field("", description="user, where there is no token")
    password: str = Field("", description="the user's password")
    clickhouse_url: str | None = Field(
        None,
        description="http(s)://user:password@host:port of ClickHouse as Grafana reaches it; none: the embedded",
    )
    prometheus_url: str = Field("http://127.0.0.1:9090", description="address of Prometheus as Grafana reaches it")


class Settings(BaseSettings):
    """Every setting of Calltide. Frozen: a process reads it once at its start."""

    model_config = SettingsConfigDict(
        env_prefix=PREFIX, env_nested_delimiter=DELIMITER, env_file=".env", extra="ignore", frozen=True
    )

    home: Path = Field(Path("~/.calltide"), description="directory for the broker's, ClickHouse's and log files")
    profile: Profile = Field(
        "embedded", description="defaults for a kind of machine; every other setting overrides its own"
    )
    pipeline_version: str = Field("v1", min_length=1, max_length=64, description="version written to every score")
    log_level: Literal["debug", "info", "warning", "error"] = Field(
        "info", description="least important log line shown"
    )
    test_data: Path = Field(Path("../shared/data"), description="recordings with truth, for tests and training")
    kafka: Kafka = Kafka()
    broker: Broker = Broker()
    clickhouse: ClickHouse = ClickHouse()
    vad: Vad = Vad()
    diarization: Diarization = Diarization()
    asr: Asr = Asr()
    emotion: Emotion = Emotion()
    sentiment: Sentiment = Sentiment()
    call_metrics: CallMetrics = CallMetrics()
    rules: Rules = Rules()
    insights: Insights = Insights()
    sink: Sink = Sink()
    gateway: Gateway = Gateway()
    web: Web = Web()
    api: Api = Api()
    ingest: Ingest = Ingest()
    serve: Serve = Serve()
    uploads: Uploads = Uploads()
    archive: Archive = Archive()
    webhooks: Webhooks = Webhooks()
    llm: Llm = Llm()
    runtime: Runtime = Runtime()
    metrics: Metrics = Metrics()
    grafana: Grafana = Grafana()

    @classmethod
    def settings_customise_sources(
        cls, settings_cls: type[BaseSettings], *args: Any, **sources: PydanticBaseSettingsSource
    ) -> tuple[PydanticBaseSettingsSource, ...]:
        """The environment before `.env` before the profile."""
        return (*super().settings_customise_sources(settings_cls, *args, **sources), ProfileSource(settings_cls))

    @property
    def directory(self) -> Path:
        """`home`, absolute, with ~ resolved."""
        return self.home.expanduser().absolute()

    @property
    def outcome_model(self) -> Path:
        """Where the model of how calls end is looked for, and written."""
        named = self.call_metrics.outlook
        return Path(named).expanduser() if named not in ("", NONE) else self.directory / "models" / "outcome.json"

    @property
    def bootstrap_servers(self) -> str:
        """The cluster's address, or the embedded broker's."""
        return self.kafka.bootstrap_servers or f"127.0.0.1:{self.broker.port}"

    @property
    def clickhouse_url(self) -> str:
        """The server's address, or the embedded one's."""
        return self.clickhouse.url or f"http://127.0.0.1:{self.clickhouse.port}"

    @property
    def scores_url(self) -> str:
        """The gateway's address for programs on this machine."""
        return f"ws://{self.gateway.host}:{self.gateway.port}/v1/scores"

    @property
    def topics(self) -> tuple[Topic, ...]:
        """The table of topics with this installation's partition count and retention."""
        return topics(self.kafka.partitions, self.kafka.retention_hours * 3_600_000)


def _in_words(annotation: Any) -> str:
    """The type of a setting for people."""
    origin, arguments = get_origin(annotation), get_args(annotation)
    if origin is Literal:
        return " or ".join(map(str, arguments))
    if origin in (tuple, list):
        return "JSON list"
    if origin is dict:
        return "JSON object"
    if origin in (Union, UnionType):
        return " or ".join(_in_words(one) for one in arguments if one is not type(None))
    words = {str: "text", int: "whole number", float: "number", bool: "true or false", Path: "path"}
    return words.get(annotation, str(annotation))


def names() -> dict[str, tuple[str, str, str]]:
    """Each variable's name → (type, default, description), in the order of the classes."""
    table: dict[str, tuple[str, str, str]] = {}

    def walk(model: type[BaseModel], prefix: str) -> None:
        for name, field in model.model_fields.items():
            variable = prefix + name.upper()
            if isinstance(field.annotation, type) and issubclass(field.annotation, BaseModel):
                walk(field.annotation, variable + DELIMITER)
            else:
                default = field.default
                shown = "" if default is None else str(default)
                if isinstance(default, tuple | dict):
                    shown = json.dumps(default)
                table[variable] = (_in_words(field.annotation), shown, field.description or "")

    walk(Settings, PREFIX)
    return table


def table() -> str:
    """All settings as a Markdown table."""
    rows = ["| setting | type | default | what it is |", "|---|---|---|---|"]
    for variable, (kind, default, description) in names().items():
        cells = (f"`{variable}`", kind.replace("|", "or"), f"`{default}`" if default else "", description)
        rows.append("| " + " | ".join(cells) + " |")
    return "\n".join(rows) + "\n"


@cache
def load() -> Settings:
    """The settings of this process. Raises CalltideError that names every unknown variable or wrong value."""
    known = names()
    given = {*os.environ, *dotenv_values(".env")}
    for variable in sorted(given):
        if variable.upper().startswith(PREFIX) and variable.upper() not in known:
            near = difflib.get_close_matches(variable.upper(), known, n=1)
            hint = f"did you mean {near[0]}?" if near else "`calltide settings` lists all names"
            raise CalltideError(f"unknown setting {variable}; {hint}")
    try:
        return Settings()
    except ValidationError as error:
        faults = (
            f"{PREFIX}{DELIMITER.join(str(part) for part in fault['loc']).upper()}: {fault['msg']}"
            for fault in error.errors()
        )
        raise CalltideError(f"wrong setting {'; '.join(faults)}; `calltide settings` lists what is allowed") from None
    except SettingsError as error:
        values = {**dotenv_values(".env"), **os.environ}
        unread = sorted(name for name in given if known.get(name.upper(), ("",))[0].startswith("JSON"))
        # Not their values: a password may be among them.
        faults = (name.upper() for name in unread if not _is_json(values[name]))
        raise CalltideError(
            f"unreadable setting: {', '.join(faults) or error}; lists and tables are written as JSON: "
            '["customer"], {"*": "none"}'
        ) from None


def _is_json(text: str | None) -> bool:
    try:
        json.loads(text or "")
    except ValueError:
        return False
    return True
