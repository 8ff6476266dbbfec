"""What is made of scores, and what it costs: `python -m benchmarks.intelligence [PART …]`.

The parts, all of them by default:
* `metrics`: CPU time of the stage metrics for an utterance, with the marks around it, and the size of what it keeps
  and writes; and how far its quarters are off where it can no longer keep each utterance.
* `overlap`: how well interruptions and silences are known: the speech of calls/made, trimmed to where its level is
  within TRIM_DB of its loudest, put after each other's end with planted gaps and overlaps, through the real VAD.
* `rules`: CPU time of the stage rules for an utterance, with the marks around it, and the size of what it keeps, with
  100 rules, with and without such that ask for a meaning. The words are those of text/helpdesk-calls.jsonl.
* `starter`: what the starter set finds in BANKING77 (questions with a label) and in the help desk's calls.

`metrics --markdown docs/metrics.md` and `rules --markdown docs/rules.md` renew the tables there.
"""

import argparse
import csv
import json
import random
import time
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from datetime import UTC, datetime, timedelta
from pathlib import Path
from statistics import mean, median
from typing import Final, cast

import numpy as np
import soundfile
from numpy.typing import NDArray

from benchmarks.support import Table, add_outputs, parsed, publish
from processors import metrics, rules, vad
from processors.base import Output, Record
from processors.conversation import INTERRUPTION_MS, SILENCE_MS, Tally
from processors.models.embedding import Embedder
from processors.models.sentiment import EnsembleSentiment, made_here
from processors.models.silero import SileroVad
from processors.rules.language import parse
from processors.rules.stage import Rules
from processors.sentiment import Config as SentimentConfig
from schemas.audio import AudioPacket
from schemas.events import (
    Acoustics,
    CallEnded,
    CallEvent,
    CallInfo,
    CallStarted,
    Emotion,
    EmotionLabel,
    Progress,
    Role,
    RunningScore,
    Score,
    Segment,
    Sentiment,
    Word,
    decode,
)
from streams.settings import load

COMMAND: Final = "python -m benchmarks.intelligence"
Floats = NDArray[np.float32]

AT: Final = datetime(2026, 1, 1, tzinfo=UTC)
ROLES: Final[tuple[Role, Role]] = ("agent", "customer")
TRIM_DB: Final = 30
GAPS_MS: Final = (-1_500, -1_000, -700, -500, -300, -200, -100, 0, 200, 4_800, 5_000, 5_300)
PLANTED: Final = 40
RATE: Final = 8_000
"""Of the made calls with two channels."""

FRAME: Final = RATE // 100
"""10 ms."""


# Calls of scores


def made_call(minutes: float, seed: int = 1) -> list[CallEvent]:
    """A two-party call as `scores` has it: utterances of 4 s and 12 words on average, and a mark for each second in
    which nobody speaks."""
    chance, call = random.Random(seed), CallInfo(call_id=f"made-{seed}", started_at=AT, roles=ROLES)
    events: list[CallEvent] = [CallStarted(call=call)]
    at_ms, end_ms = 0, round(minutes * 60_000)
    while at_ms < end_ms:
        channel, length_ms = chance.randint(0, 1), chance.randint(800, 7_200)
        events.append(utterance(call, channel, at_ms, length_ms, chance))
        last_ms = at_ms + length_ms
        at_ms = last_ms + chance.choice([-400, 0, 300, 700, 1_500, 2_500])
        events += [Progress(call=call, at_ms=mark_ms) for mark_ms in range(last_ms, at_ms, 1_000)]
    ended_at = AT + timedelta(milliseconds=at_ms)
    return [*events, CallEnded(call=call, duration_ms=at_ms, ended_at=ended_at, reason="hangup")]


def utterance(call: CallInfo, channel: int, start_ms: int, length_ms: int, chance: random.Random) -> Score:
    """An utterance with all that the chain finds, the customer's with emotion."""
    words, role = (
        ["so", "I", "wanted", "to", "ask", "you", "about", "the", "bill", "that", "came", "today"],
        ROLES[channel],
    )
    word_ms, score = length_ms // len(words), round(chance.uniform(-1, 1), 4)
    labels: tuple[EmotionLabel, ...] = ("neutral", "happiness", "sadness", "anger", "fear", "surprise")
    label = chance.choice(labels)
    emotion = Emotion(label=label, probabilities={one: 0.5 if one == label else 0.1 for one in labels}, model="made")
    return Score(
        call=call,
        channel=channel,
        start_ms=start_ms,
        end_ms=start_ms + length_ms,
        cut="pause",
        codec="mulaw",
        rate=8_000,
        captured_at=AT + timedelta(milliseconds=start_ms + length_ms),
        speaker=role,
        role=role,
        speaker_confidence=1,
        text=" ".join(words),
        words=tuple(
            Word(text=word, start_ms=start_ms + at * word_ms, end_ms=start_ms + (at + 1) * word_ms, confidence=0.9)
            for at, word in enumerate(words)
        ),
        language="en",
        asr_confidence=0.9,
        asr_model="made",
        emotion=emotion if channel else None,
        acoustics=Acoustics(loudness_lufs=round(chance.uniform(-30, -15), 2)) if channel else None,
        sentiment=Sentiment(label="neutral", score=score, text_score=score, confidence=0.8, model="made"),
        running=RunningScore(score=score, party_score=score, utterances=1),
        pipeline_version="made",
    )


def records(events: Sequence[CallEvent]) -> list[Record]:
    """As a stage reads them."""
    return [
        Record(event.call.call_id, event.kind, dict(output.headers), output.value, 0)
        for event, output in ((event, Output.of(event)) for event in events)
    ]


# Parts


def of_metrics(_data: Path) -> Iterator[Table]:
    """Cost and size by the length of the call."""
    rows: list[tuple[str, ...]] = []
    for minutes in (5, 10, 60, 240):
        events = made_call(minutes)
        read, n = records(events), sum(isinstance(event, Score) for event in events)
        best_s, kept, told = float("inf"), 0, 0
        for _ in range(5):
            stage = metrics.build(metrics.Config(), "made")
            state, began = stage.open(""), time.process_time()
            for record in read:
                (step,) = stage.process([(state, record)])
                kept = max(kept, len(step.snapshot or b""))
                told = max([told, *(len(output.value) for output in step.outputs)])
            best_s = min(best_s, time.process_time() - began)
        rows.append((f"{minutes} min", str(n), f"{best_s / n * 1e6:.0f}", f"{kept:,}", f"{told:,}", _off(events)))
    columns = ("call", "utterances", "CPU µs an utterance", "snapshot, bytes", "record, bytes", "quarters off by")
    note = "An utterance with the marks around it, one by one: read, counted, told, kept. Best of five."
    yield Table("The stage metrics", columns, rows, [note])


def _off(events: Sequence[CallEvent]) -> str:
    """The largest error of a party's quarter, of 10 from −5 to 5."""
    tally, last = Tally(), cast(CallEnded, events[-1])
    for event in events:
        tally.hear(event)
    worst = 0.0
    for party in tally.parties():
        exact: list[list[float]] = [[], [], [], []]
        for event in events:
            if isinstance(event, Score) and event.role == party.role and event.sentiment is not None:
                exact[min((event.start_ms + event.end_ms) * 2 // last.duration_ms, 3)].append(event.sentiment.score * 5)
        for quarter, scores in zip(party.quarters, exact, strict=True):
            assert quarter is not None
            worst = max(worst, abs(quarter - mean(scores)))
    return "0" if worst < 1e-3 else f"{worst:.3f}"


def of_overlap(data: Path) -> Iterator[Table]:
    """Planted gaps and overlaps through the real VAD."""
    clips: list[list[Floats]] = [[], []]
    for file in sorted((data / "calls/made").glob("*.json")):
        samples, rate = soundfile.read(file.with_name(f"{file.stem}-stereo.wav"), dtype="float32")
        assert rate == RATE
        for turn in json.loads(file.read_text()):
            clip = samples[round(turn["start"] * rate) : round(turn["end"] * rate), turn["channel"]]
            clips[turn["channel"]].append(_trimmed(clip))
    chance, model = np.random.default_rng(5), SileroVad()
    rows: list[tuple[str, ...]] = []
    for gap_ms in GAPS_MS:
        measured = []
        for _ in range(PLANTED):
            first, second = (one[chance.integers(len(one))] for one in clips)
            begins = RATE + len(first) + gap_ms * RATE // 1_000
            both = chance.normal(0, 1e-4, (begins + len(second) + RATE, 2)).astype(np.float32)
            both[RATE : RATE + len(first), 0] += first
            both[begins : begins + len(second), 1] += second
            found = _segments(both, model)
            measured.append(
                min(one.start_ms for one in found if one.channel) - max(one.end_ms for one in found if not one.channel)
            )
        cut_in = mean(gap <= -INTERRUPTION_MS for gap in measured)
        silent = mean(gap >= SILENCE_MS for gap in measured)
        rows.append((f"{gap_ms}", f"{median(measured):.0f}", f"{100 * cut_in:.0f} %", f"{100 * silent:.0f} %"))
    columns = ("planted gap, ms", "measured, ms (median)", "an interruption", "dead air")
    yield Table("Gaps (overlaps: below 0) between two parties", columns, rows, [f"{PLANTED} of each, 8 kHz."])


def _trimmed(samples: Floats) -> Floats:
    frames = samples[: len(samples) // FRAME * FRAME].reshape(-1, FRAME)
    level = 10 * np.log10(np.square(frames).mean(1) + 1e-12)
    speech = np.flatnonzero(level > level.max() - TRIM_DB)
    return samples[speech[0] * FRAME : (speech[-1] + 1) * FRAME]


def _segments(samples: Floats, model: SileroVad) -> list[Segment]:
    """What the VAD hears; samples (n, 2) at RATE."""
    call = CallInfo(call_id="planted", started_at=AT, roles=ROLES)
    stage = vad.VoiceActivity(vad.Config(), model)
    state, found = stage.open(call.call_id), list[Segment]()
    pcm = (np.clip(samples, -1, 1) * 32_767).astype("<i2")
    end = CallEnded(call=call, duration_ms=0, ended_at=AT, reason="hangup")
    read = [records([CallStarted(call=call)])[0]]
    for sequence, start in enumerate(range(0, len(pcm), RATE // 10)):
        for channel in (0, 1):
            piece = pcm[start : start + RATE // 10, channel].tobytes()
            packet = AudioPacket(channel, "pcm_s16le", RATE, start, sequence, piece)
            read.append(Record(call.call_id, "audio", dict(packet.headers()), packet.value, 0))
    for record in [*read, *records([end])]:
        for output in stage.process([(state, record)])[0].outputs:
            event = decode(dict(output.headers), output.value)
            found += [event] if isinstance(event, Segment) else []
    return found


def hundred_rules(meanings: int = 0) -> str:
    """A file of 100 rules of all kinds, of which so many ask for a meaning too."""
    things = ("account", "order", "invoice", "router", "laptop", "password", "delivery", "warranty", "printer", "seat")
    asks: list[str] = []
    for thing in things:
        size = len(thing)
        asks += [
            f"said: {{by: customer, exact: [cancel my {thing}, close the {thing}, my {thing} is broken]}}",
            f"said: {{by: customer, stem: [return the {thing}, complaining about the {thing}], below: -0.2}}",
            rf"said: {{by: agent, regex: ['\b(replac|exchang|refund)\w*\s+(\w+\s+){{0,3}}{thing}\b', 'new {thing}']}}",
            rf"said: {{by: customer, regex: '\b(third|fourth|fifth) {thing}\b', unless: {{exact: no {thing}}}}}",
            f"all: [{{said: {{by: customer, stem: {thing}}}}}, {{not: {{said: {{by: agent, exact: sorry}}}}}}]",
            f"all: [{{said: {{exact: {thing}, times: 3, within_s: 120}}}}, {{trend: {{by: customer, below: -0.4}}}}]",
            f"missing: {{by: agent, exact: [your {thing} is insured], window: {{first_s: {10 + size}}}}}",
            f"all: [{{silence: {{at_least_s: {5 + size}}}}}, {{said: {{exact: the {thing}, window: {{last_s: 60}}}}}}]",
            f"any: [{{talk_share: {{by: agent, above: 0.{80 + size}}}}}, {{length: {{at_least_s: {size}00}}}}]",
            f"all: [{{interruption: {{by: agent, times: {size}}}}}, {{said: {{emotion: anger, below: -0.3}}}}]",
        ]
    for number in range(meanings):
        like = [
            f"{text} {things[number]}" for text in ("I want to get rid of this", "please take back my", "I hate the")
        ]
        asks[number] = f"said: {{by: customer, meaning: {json.dumps(like)}}}"
    return "rules:\n" + "".join(
        f" - name: rule-{number}\n   alert: {{}}\n   when: {{{one}}}\n" for number, one in enumerate(asks)
    )


def spoken(minutes: float, data: Path) -> list[CallEvent]:
    """A made call in which the words are those of the help desk's calls."""
    calls = map(json.loads, (data / "text" / "helpdesk-calls.jsonl").read_text(encoding="utf-8").splitlines())
    texts = [turn["text"] for call in calls for turn in call["turns"]]
    return [
        event.model_copy(update={"text": texts[at % len(texts)]}) if isinstance(event, Score) else event
        for at, event in enumerate(made_call(minutes))
    ]


def of_rules(data: Path) -> Iterator[Table]:
    """Cost and size by how many rules there are and what they ask for."""
    sets = {
        "no rules": "rules: []",
        "starter set": (Path(rules.__file__).parent / "starter.yaml").read_text(encoding="utf-8"),
        "100 rules": hundred_rules(),
        "100 rules, 10 by meaning": hundred_rules(10),
    }
    rows: list[tuple[str, ...]] = []
    for minutes in (10, 60):
        events = spoken(minutes, data)
        read, n = records(events), sum(isinstance(event, Score) for event in events)
        for name, text in sets.items():
            if minutes > 10 and "meaning" in name:
                continue  # its time goes into the model, whatever the call
            best_s, kept, found = float("inf"), 0, 0
            parsed = parse({"made.yaml": text})
            for _ in range(2 if "meaning" in name else 5):
                stage = Rules(lambda: parsed, lambda: False, "made", Embedder)  # noqa: B023
                state, found, began = stage.open(""), 0, time.process_time()
                for record in read:
                    (step,) = stage.process([(state, record)])
                    kept = max(kept, len(step.snapshot or b""))
                    found += len(step.outputs)
                best_s = min(best_s, time.process_time() - began)
            rows.append((f"{minutes} min", name, str(n), f"{best_s / n * 1e6:.0f}", f"{kept:,}", f"{found - 2:,}"))
    columns = ("call", "rules", "utterances", "CPU µs an utterance", "snapshot, bytes", "categories and alerts")
    note = (
        "An utterance with the marks around it, one by one: read, held against the rules, kept. Best of five, of two."
    )
    yield Table("The stage rules", columns, rows, [note])


def told(name: str, turns: Sequence[tuple[str, str]], model: EnsembleSentiment | None) -> list[CallEvent]:
    """A call in which this is said, (text, role) one after the other, scored by its words if there is a model."""
    call, chance, at_ms = CallInfo(call_id=name, started_at=AT, roles=ROLES), random.Random(1), 1_000
    events: list[CallEvent] = [CallStarted(call=call)]
    for text, role in turns:
        length_ms = 400 * max(1, len(text.split()))
        said = utterance(call, ROLES.index(cast(Role, role)), at_ms, length_ms, chance)
        sentiment = None
        if model is not None:
            (found,) = model.score([text])
            sentiment = Sentiment(
                label=found.label,
                score=found.score,
                text_score=found.score,
                confidence=found.confidence,
                model=model.id,
            )
        events.append(said.model_copy(update={"text": text, "emotion": None, "sentiment": sentiment}))
        at_ms += length_ms + 600
        events.append(Progress(call=call, at_ms=at_ms))
    return [*events, CallEnded(call=call, duration_ms=at_ms, ended_at=AT, reason="hangup")]


def of_starter(data: Path) -> Iterator[Table]:
    """How often the rules of the starter set find something in texts of which something is known."""
    with (data / "text" / "banking77-train.csv").open(encoding="utf-8", newline="") as file:
        questions = [(row["category"], [(row["text"], "customer")]) for row in csv.DictReader(file)]
    lines = (data / "text" / "helpdesk-calls.jsonl").read_text(encoding="utf-8").splitlines()
    calls = [
        (call["satisfied"], [(turn["text"], turn["role"]) for turn in call["turns"]]) for call in map(json.loads, lines)
    ]
    rows: list[tuple[str, ...]] = []
    folder = made_here(SentimentConfig().model)
    assert folder is not None
    for name, texts, wanted, model in (
        ("BANKING77", questions, "terminate_account", None),
        ("help desk", calls, "No", EnsembleSentiment(folder)),
    ):
        found: Counter[tuple[str, bool]] = Counter()
        stage = rules.build(rules.Config(), "made")
        for number, (label, turns) in enumerate(texts):
            state = stage.open("")
            read = records(told(f"{number}", turns, model))
            steps = stage.process([(state, record) for record in read])
            written = [json.loads(output.value) for step in steps for output in step.outputs]
            found.update((one["rule"], label == wanted) for one in written if one["kind"] == "category")
        hits = sum(label == wanted for label, _ in texts)
        rows += [
            (name, rule, f"{found[rule, True]} of {hits}", f"{found[rule, False]:,} of {len(texts) - hits:,}")
            for rule in sorted({rule for rule, _ in found})
        ]
    columns = ("texts", "rule", "calls labelled terminate_account, or not satisfied", "all others")
    note = "Rules that are not here found nothing. BANKING77's questions are a call each, and have no sentiment."
    yield Table("The starter set", columns, rows, [note])


PARTS: Final[dict[str, Callable[[Path], Iterator[Table]]]] = {
    "metrics": of_metrics,
    "overlap": of_overlap,
    "rules": of_rules,
    "starter": of_starter,
}


def main() -> None:
    """Measure and print; --markdown renews the tables of the parts that are named in a page that has them."""
    parser = argparse.ArgumentParser(prog=COMMAND, description="What is made of scores, and what it costs.")
    add_outputs(parser)
    arguments = parsed(parser, PARTS)
    data = load().test_data
    publish({f"{COMMAND} {part}": list(PARTS[part](data)) for part in arguments.parts}, arguments)


if __name__ == "__main__":
    main()
