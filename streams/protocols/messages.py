"""JSON messages of the websocket protocols, read so that nothing a stranger sends does more than end in a fault.

A changer must know: JSON's texts may hold halves of characters, which UTF-8 has not. Names are checked for them here;
of all other texts ingest makes what can be written (streams/ingestion/line.py).
"""

import json
from typing import Any, Final

from streams.protocols.base import Fault

LONGEST_MESSAGE: Final = 65_536
"""Bytes or characters. AudioHook's own limit; Twilio's messages are of some hundred bytes."""
LONGEST_NAME: Final = 256
"""Characters of an identifier. Judgement: the longest documented one has 36."""


def parse(message: str) -> dict[str, Any]:
    """The object that a text message holds. Raises Fault if it holds none, or is too long or too deep to be one."""
    if len(message) > LONGEST_MESSAGE:
        raise Fault(f"a message of {len(message)} characters; send at most {LONGEST_MESSAGE}", "too_long", 1009)
    try:
        data = json.loads(message)
    except (ValueError, RecursionError) as error:
        # RecursionError: brackets in brackets, which no recursion limit of ours could tell apart from an attack.
        raise Fault(f"a message that is not JSON ({type(error).__name__})", "not_json", 1007) from error
    if not isinstance(data, dict):
        raise Fault("a message that is no JSON object", "not_json", 1007)
    return data


def member(data: dict[str, Any], key: str) -> dict[str, Any]:
    """The object under a key. Raises Fault if there is none."""
    value = data.get(key)
    if not isinstance(value, dict):
        raise Fault(f"a message without the object {key!r}", "malformed")
    return value


def name(data: dict[str, Any], key: str) -> str:
    """The identifier under a key: printable, of 1 to `LONGEST_NAME` characters. Raises Fault if it is none."""
    value = data.get(key)
    # isprintable also tells the halves of surrogate pairs, which JSON may hold and UTF-8 may not.
    if not isinstance(value, str) or not value.isprintable() or not 0 < len(value) <= LONGEST_NAME:
        raise Fault(f"a message whose {key!r} is not a printable text", "malformed")
    return value
