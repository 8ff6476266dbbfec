"""A call that is heard anew and then shown through the live websocket: for who asks, as the version that was wished."""

import pytest

from streams import samples
from tests.chain.support import Listener, Stack, until

pytestmark = [pytest.mark.kafka, pytest.mark.models, pytest.mark.slow]


def test_what_was_heard_anew_is_shown(stack: Stack) -> None:
    name = "shown-again"
    with (
        Listener(stack.scores_url, replay="words") as watches,
        Listener(stack.scores_url, call=name) as live,
    ):
        assert stack.begin("ingest", samples.packaged(), "--call-id", name, "--speed", "8").wait(120) == 0
        until(lambda: live.events("call_ended", name), "the end of the call")
        heard = live.events("score", name)
        settings = ("--from-stage", "sentiment", "--set", "sentiment.voice_weight=0", "--version", "words")
        done = stack.calltide("replay", "--calls", name, *settings, "--publish", "--speed", "200")
        until(lambda: watches.events("call_ended", name), "the end of the call that is shown")
        assert "replay words: ended" in done.stdout
        shown = watches.events("score", name)
        assert [one["text"] for one in shown] == [one["text"] for one in heard]
        assert {one["pipeline_version"] for one in shown} == {"words"}
        assert all(one["sentiment"]["score"] == one["sentiment"]["text_score"] for one in shown if one["sentiment"])
        assert live.events("score", name) == heard, "who listens to live calls got nothing of it"
