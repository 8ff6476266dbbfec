"""What lies in the topic `scores.replayed`: events of old calls, sent again at a pace, and where the sending is.

A changer must know: records are keyed by the name of the replay, not by call, so that all of one replay lies in one
partition, in order: a reader forgets what a jump leaves behind before it sees what comes after it.
"""

from typing import Final, Literal

from pydantic import BaseModel, ConfigDict, Field

from schemas.events import Milliseconds, UtcTime

REPLAY: Final = "replay"
"""Header of every record: the name of the replay."""
BEFORE: Final = "before"
"""Header of an event that lies before the place of a jump: sent at once, so that a reader has the call so far."""
ANSWERS: Final = "answers"
"""Header of a position that is the answer to a command: the command's id."""

ReplayState = Literal["playing", "paused", "ended", "stopped"]


class ReplayPosition(BaseModel):
    """Where a replay is: every second, at each command, and at its end."""

    model_config = ConfigDict(frozen=True, extra="ignore")

    kind: Literal["replay_position"] = "replay_position"
    replay: str
    begun_at: UtcTime = Field(description="when it was planned: tells two replays of one name apart")
    state: ReplayState
    position_ms: Milliseconds = Field(description="time since its first event; what lies between calls is left out")
    of_ms: Milliseconds = Field(description="the place of its last event")
    speed: float = Field(description="times real time")
    reset: bool = Field(
        default=False, description="it has jumped: forget all of it; the running calls follow from their beginnings"
    )
