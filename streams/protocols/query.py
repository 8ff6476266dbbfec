"""The query of a websocket's address, for the protocols that say there what comes.

A changer must know: what is wrong with a query is a Fault whose text goes back in a header of the refused handshake:
ASCII, one line, and short.
"""

from collections.abc import Sequence
from typing import Final, cast, get_args
from urllib.parse import parse_qsl

from schemas.events import Role
from streams.protocols.base import Fault
from streams.protocols.messages import LONGEST_NAME

MAXIMUM_PARAMETERS: Final = 100
"""Judgement: more than twice what Deepgram's live API knows."""

_FLAGS: Final = {"true": True, "1": True, "false": False, "0": False, "": False}


def refused(what: str) -> Fault:
    """What a handshake cannot be granted for; `what` may hold anything that the client wrote."""
    return Fault(ascii(what)[1:-1][:300], "bad_query")


class Query:
    """The parameters of a query, read one by one. Every method raises Fault for a value that cannot be."""

    def __init__(self, query: str) -> None:
        try:
            pairs = parse_qsl(query, keep_blank_values=True, max_num_fields=MAXIMUM_PARAMETERS)
        except ValueError:
            raise refused(f"The query has more than {MAXIMUM_PARAMETERS} parameters.") from None
        self.values: dict[str, list[str]] = {}
        for name, value in pairs:
            self.values.setdefault(name, []).append(value)

    def text(self, name: str, default: str = "") -> str:
        """The value of a parameter that is given once at most."""
        values = self.values.get(name, [default])
        if len(values) > 1:
            raise refused(f"The parameter {name!r} is given {len(values)} times; give it once.")
        return values[0]

    def name(self, name: str) -> str:
        """A value that names something: printable, at most `LONGEST_NAME` characters."""
        value = self.text(name)
        if len(value) > LONGEST_NAME or not value.isprintable():
            raise refused(f"The parameter {name!r} is no name of at most {LONGEST_NAME} printable characters.")
        return value

    def flag(self, name: str, default: bool = False) -> bool:
        """true or false; 1 and 0 say the same."""
        value = self.text(name, "true" if default else "false").lower()
        if value not in _FLAGS:
            raise refused(f"The parameter {name!r} is true or false, not {value!r}.")
        return _FLAGS[value]

    def number(self, name: str, low: int, high: int, default: int | None = None) -> int:
        """A whole number from `low` to `high`; without a default the parameter must be given."""
        value = self.text(name)
        if value == "" and default is not None:
            return default
        # Nine digits at most: int() of what is longer may raise, and none of them is in any range here.
        if not (value.isascii() and value.isdigit() and len(value) < 10 and low <= int(value) <= high):
            raise refused(f"The parameter {name!r} is a whole number from {low} to {high}, not {value!r}.")
        return int(value)

    def roles(self, default: Sequence[Role]) -> tuple[Role, ...]:
        """`roles`: the party on each of as many channels as `default` has, with commas."""
        given = self.text("roles").split(",") if self.text("roles") else list(default)
        if len(given) != len(default) or not set(given) <= set(get_args(Role)):
            names = ", ".join(get_args(Role))
            raise refused(f"The parameter 'roles' names the party on each of {len(default)} channels out of {names}.")
        return tuple(cast(Role, role) for role in given)
