"""The settings of `calltide serve`."""

from pydantic import BaseModel, ConfigDict, Field


class Serve(BaseModel):
    """Calls from phone systems."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    host: str = Field("127.0.0.1", description="address to listen on")
    port: int = Field(8770, ge=0, le=65_535, description="port of the websocket protocols")
    audiosocket_port: int = Field(8771, ge=0, le=65_535, description="port of AudioSocket")
    audiosocket_networks: tuple[str, ...] = Field(
        ("127.0.0.0/8", "::1/128"), description="from where AudioSocket, which has no keys, may come"
    )
    keys: dict[str, dict[str, str]] = Field(
        {}, description='keys by protocol and tenant: {"twilio": {"acme": "…"}}; a protocol without any is open'
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
