"""Profiles: sets of defaults for a kind of machine, below every setting that somebody has made.

A changer must know: a profile may change what is computed and where, never how records are batched: `batch` above 1
costs the bit-exactness that a restarted worker relies on (docs/production-models.md), so it stays a choice of its own.
"""

from typing import Any, Final, Literal

from pydantic.fields import FieldInfo
from pydantic_settings import PydanticBaseSettingsSource

Profile = Literal["embedded", "gpu", "quality"]

PROFILES: Final[dict[str, dict[str, dict[str, Any]]]] = {
    # The packaged models on the CPU: the settings' own defaults.
    "embedded": {},
    # One NVIDIA GPU and the extra torch. Seven classes of emotion of which six are ours.
    "gpu": {
        "asr": {"model": "large-v3", "device": "cuda", "compute_type": "float16", "beam_size": 5},
        "emotion": {
            "model": "firdhokk/speech-emotion-recognition-with-openai-whisper-large-v3",
            "device": "cuda",
        },
        "sentiment": {"model": "cardiffnlp/twitter-roberta-base-sentiment-latest", "device": "cuda"},
    },
    # A CPU with time to spare and the extra torch. Emotion stays packaged: the published models that a CPU can carry
    # know four classes.
    "quality": {
        "asr": {"model": "small.en", "beam_size": 5},
        "sentiment": {"model": "cardiffnlp/twitter-roberta-base-sentiment-latest", "device": "cpu"},
    },
}
"""Profile → section → field → value."""


class ProfileSource(PydanticBaseSettingsSource):
    """The values of the profile that the sources above it name. Belongs last, after the environment and `.env`."""

    def get_field_value(self, field: FieldInfo, field_name: str) -> tuple[Any, str, bool]:
        return self().get(field_name), field_name, False

    def __call__(self) -> dict[str, Any]:
        # A name that is no profile is reported when the field is validated.
        return dict(PROFILES.get(str(self.current_state.get("profile", "embedded")), {}))
