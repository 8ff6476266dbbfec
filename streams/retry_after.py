"""How long another server asks to wait: its header Retry-After."""

from collections.abc import Mapping
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime
from typing import Final

LONGEST_S: Final = 600.0
"""Most that it counts for (judgement)."""


def retry_after_s(headers: Mapping[str, str]) -> float:
    """Seconds: a number of them, or up to a moment; 0 for what is neither, and without the header (RFC 9110)."""
    text = headers.get("Retry-After", "").strip()
    try:
        wish = float(text) if text.isdecimal() else (parsedate_to_datetime(text) - datetime.now(UTC)).total_seconds()
    except (TypeError, ValueError):
        return 0.0
    return min(max(wish, 0.0), LONGEST_S)
