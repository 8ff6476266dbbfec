"""The canned answers that pages are tested with are of the shapes that the API gives."""

from typing import Any

import pytest
from pydantic import BaseModel

from processors.explanation import Explanation
from streams.api.calls import Call, CallEvaluation, CallFigures, CallInsights, CallWhole, Utterance
from streams.api.rules import Checked, Rules, Trials
from streams.api.search import Hit, Statistics
from streams.api.status import Status
from streams.api.tasks import Task
from streams.api.waveform import Waveform
from tests.browser import canned


@pytest.mark.parametrize(
    ("model", "answer"),
    [
        (Call, canned.call()),
        (CallWhole, canned.whole()),
        *((Utterance, one) for one in canned.utterances()),
        (CallFigures, canned.metrics()),
        (CallInsights, canned.insights()),
        (CallEvaluation, canned.evaluation()),
        (Explanation, canned.explanation("billing-4711", 1, 22_000)),
        (Hit, canned.hit()),
        (Statistics, canned.STATISTICS),
        (Status, canned.STATUS),
        (Task, canned.task()),
        (Rules, canned.RULES),
        (Checked, {"version": "cafba2c5ee40", "rules": canned.RULES["rules"]}),
        (Trials, canned.TRIED),
        (Waveform, canned.waveform()),
    ],
    ids=lambda value: value.__name__ if isinstance(value, type) else "",
)
def test_a_canned_answer_is_of_the_shape_of_a_real_one(model: type[BaseModel], answer: dict[str, Any]) -> None:
    model.model_validate(answer)
    fields = {field.alias or name for name, field in model.model_fields.items()}
    unknown = set(answer) - fields if model.model_config.get("extra") != "allow" else set()
    assert not unknown, "pages would be tested with what they never get"
