"""How long another server asks to wait."""

from datetime import UTC, datetime, timedelta
from email.utils import format_datetime

import pytest

from streams.retry_after import LONGEST_S, retry_after_s


@pytest.mark.parametrize(
    ("text", "seconds"),
    [
        ("0", 0), (" 17 ", 17), ("86400", LONGEST_S), ("9" * 400, LONGEST_S), ("-5", 0), ("1.5", 0), ("soon", 0),
        ("", 0),
        ("Wed, 21 Oct 2015 07:28:00 GMT", 0), ("Wed, 21 Oct 2015 07:28:00 -0000", 0), ("Wed, 99 Oct", 0),
    ],
)  # fmt: skip
def test_seconds_and_what_is_none(text: str, seconds: float) -> None:
    assert retry_after_s({"Retry-After": text}) == seconds


def test_a_moment_and_no_header() -> None:
    moment = format_datetime(datetime.now(UTC) + timedelta(seconds=120), usegmt=True)
    assert 110 < retry_after_s({"Retry-After": moment}) <= 120
    assert retry_after_s({}) == 0
