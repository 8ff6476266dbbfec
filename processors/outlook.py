"""Early warning: how a call that goes on will probably end, by its figures so far and a model of earlier calls.

A logistic curve over a handful of FEATURES. A changer must know: they are a function of one record of `metrics`, so
they cannot know what is still to come, and training (streams/training/outcome.py) and the stage cannot differ in them.
A model names its features, and one of other features is refused: whoever changes what a feature means renames it.
docs/early-warning.md says what was measured.
"""

import math
from collections.abc import Callable, Mapping
from typing import Annotated, Any, Final, Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from processors.utterances import rounded
from schemas.errors import CalltideError
from schemas.events import CallMetrics, Outlook, PartyMetrics, Role

NEGATIVE: Final = -1.0
"""A last quarter of this mean and below, −5 to 5, is a negative end. Judgement: −0.2 of an utterance's −1 to 1, below
which dashboards and reports call a call negative."""
FROM_MS: Final = 20_000
"""Media time before which nothing is said. Judgement: until then people greet each other."""
LEAST: Final = 3
"""Scored utterances of the customer that it takes. Judgement: of fewer the mean is one sentence's."""
PRIOR: Final = 4
"""Means and shares are as though so many neutral utterances had been heard besides, so that the first few do not say
more than they can. Judgement: about what is said in half a minute."""
MOST: Final = 30.0
"""Of the logit: beyond it a chance is 0 or 1 to four digits."""

Feature = Callable[[CallMetrics, PartyMetrics, PartyMetrics | None], float | None]


def _score(party: PartyMetrics) -> float | None:
    return None if party.score is None else party.score * _scored(party) / (_scored(party) + PRIOR)


def _scored(party: PartyMetrics) -> int:
    return party.negative + party.neutral + party.positive


def _latest(customer: PartyMetrics) -> float | None:
    return next((quarter for quarter in reversed(customer.quarters) if quarter is not None), None)


def _interruptions(metrics: CallMetrics, customer: PartyMetrics) -> float | None:
    if customer.interruptions is None or customer.interrupted is None:
        return None
    return (customer.interruptions + customer.interrupted) * 60_000 / metrics.at_ms


FEATURES: Final[dict[str, Feature]] = {
    "customer_score": lambda _, customer, __: _score(customer),
    "customer_latest_quarter": lambda _, customer, __: _latest(customer),
    "customer_change": lambda _, customer, __: customer.change,
    "customer_negative_share": lambda _, customer, __: customer.negative / (_scored(customer) + PRIOR),
    "customer_talk_share": lambda _, customer, __: customer.talk_share,
    "interruptions_a_minute": lambda metrics, customer, _: _interruptions(metrics, customer),
    "silence_share": lambda metrics, _, __: metrics.silence_ms / metrics.at_ms,
    "agent_score": lambda _, __, agent: _score(agent) if agent else None,
    "log_minutes": lambda metrics, _, __: math.log(metrics.at_ms / 60_000),
}
"""What the model looks at, by name, after FROM_MS. None where it cannot be known, such as interruptions in a mixed
recording; then it says nothing for or against."""


def party(metrics: CallMetrics, role: Role) -> PartyMetrics | None:
    """The party of a role; of several the one that talks most."""
    return max((one for one in metrics.parties if one.role == role), key=lambda one: one.talk_ms, default=None)


def features(metrics: CallMetrics) -> dict[str, float | None] | None:
    """What is known of a call by now, by the names of FEATURES; None: too little to say anything.

    Nothing is said before FROM_MS, of a call whose beginning was not heard, or before the customer is known and has
    LEAST scored utterances.
    """
    customer = party(metrics, "customer")
    if metrics.at_ms < FROM_MS or metrics.partial or customer is None or _scored(customer) < LEAST:
        return None
    agent = party(metrics, "agent")
    return {name: feature(metrics, customer, agent) for name, feature in FEATURES.items()}


def ended_negative(metrics: CallMetrics) -> bool | None:
    """Of the last record of a call: whether it ended as `Outlook` foretells. None: nothing of the customer's is scored
    in the last quarter."""
    customer = party(metrics, "customer")
    last = customer.quarters[-1] if customer else None
    return None if last is None else last <= NEGATIVE


Number = Annotated[float, Field(allow_inf_nan=False)]


class Term(BaseModel):
    """What one feature says: `weight` times how many scales it is from the mean, once it is within low and high."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    weight: Number
    mean: Number
    scale: Annotated[float, Field(gt=0, allow_inf_nan=False)]
    low: Number = Field(description="of the calls it was trained on; beyond that it says no more")
    high: Number

    def of(self, value: float | None) -> float:
        """Its part of the logit; what is not known is as it mostly is."""
        if value is None:
            return 0.0
        return self.weight * (min(max(value, self.low), self.high) - self.mean) / self.scale


class Model(BaseModel):
    """What `calltide train outcome` writes."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    format: Literal["calltide outcome 1"] = "calltide outcome 1"
    id: str = Field(min_length=1)
    bias: Number
    terms: dict[str, Term]
    facts: dict[str, Any] = Field(description="what it was trained and tried on, for people")

    def chance(self, known: Mapping[str, float | None]) -> float:
        """Of a negative end, 0 to 1, four digits; `known` as `features` has it."""
        logit = self.bias + sum(term.of(known[name]) for name, term in self.terms.items())
        return rounded(1 / (1 + math.exp(-min(max(logit, -MOST), MOST))))

    def outlook(self, metrics: CallMetrics) -> Outlook | None:
        """For a record of a call that goes on; None: too little is known."""
        known = None if metrics.final else features(metrics)
        return None if known is None else Outlook(negative=self.chance(known), model=self.id)


def parse(text: str, where: str) -> Model:
    """The model of a file's text. Raises CalltideError for what is none, or one of other features."""
    try:
        model = Model.model_validate_json(text)
    except ValidationError as error:
        fault = error.errors(include_url=False)[0]
        raise CalltideError(
            f"{where} holds no model of how calls end ({'.'.join(map(str, fault['loc']))}: {fault['msg']}); "
            "make one with `calltide train outcome`"
        ) from None
    if model.terms.keys() != FEATURES.keys():
        raise CalltideError(f"{where} was made for other features; train again with `calltide train outcome`")
    return model
