"""What has happened in a call so far: who spoke how much and when, told by the records of `scores` in their order.

`Tally.hear` takes each event once; everything else asks. The stages `metrics`, `rules` and `insights` share it.

A changer must know: utterances come when they are finished, so one that began earlier may come later. What depends on
their order in time (`Floor`: turns, responses, interruptions, silences) is settled up to the watermark only; behind it
lie the few utterances that something may still come before. Every sum is of whole numbers, so it is the same in any
order, and `load(dump())` is exact. docs/metrics.md says what each figure means and where its threshold comes from.
"""

from bisect import bisect_left, bisect_right, insort
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field, fields
from itertools import pairwise
from typing import Any, Final

from pydantic_core import from_json, to_json

from processors.utterances import rounded
from schemas.events import (
    CallEnded,
    CallEvent,
    CallStarted,
    Correction,
    Interruption,
    PartyMetrics,
    Progress,
    Role,
    Score,
    Silence,
)

SILENCE_MS: Final = 5_000
"""Nobody speaks for so long: dead air. Judgement, as in the table call_metrics; docs/metrics.md has
what others take."""
INTERRUPTION_MS: Final = 300
"""Both go on for so long: it is an interruption, not a reply that came a little early. Published: shorter overlap is
how people take turns (Heldner & Edlund 2010); the figure itself is judgement, as in the table call_metrics."""
RESPONSE_STEP_MS: Final = 50
"""Responses are counted by steps of so much, so their median is off by half of it at most. Judgement: finer than the
windows of 32 ms and the margins by which the VAD knows where speech begins."""
RESPONSE_MOST_MS: Final = 30_000
"""Slower responses count as this slow, which bounds the state; it moves no median that is less. Judgement."""
TREND_FROM: Final = 5
"""Utterances that a trend needs. Judgement: a line through fewer says more of them than of a trend."""
INSTANCES: Final = 50
"""Silences and interruptions that are told one by one, the longest; the counts are of all. Judgement: bounds the state
and each record, and is more than a person reads."""
POINTS: Final = 256
"""Most points in time of a party at which its scores are kept. Up to so many scored utterances quarters are exact; of
more, neighbours are joined until half as many points are left. Measured (docs/metrics.md): a snapshot below 20 KB, and
quarters that are off by 0.02 of 5 at most after four hours."""
STEP_MS: Final = 1_000
"""First distance of joined points; it is doubled until few enough are left."""
WAITING: Final = 64
"""Most utterances that wait for the watermark. Judgement: the VAD cuts at 15 s and marks every second, so they are two
or three; more wait only where marks are missing."""
CROSS_TALK: Final = "cross_talk"
"""Flag of an utterance that is another party's, heard on this channel: it is counted there, not here."""

Said = tuple[int, int, int, int]
"""Start, channel, end, number of the voice."""


@dataclass(slots=True)
class Voice:
    """What was heard of one speaker in one role, as the records had it: sums that do not depend on the order."""

    role: Role
    speaker: str
    utterances: int = 0
    words: int = 0
    talk_ms: int = 0
    labels: dict[str, int] = field(default_factory=dict)
    """Scored utterances by label."""
    emotion_ms: dict[str, int] = field(default_factory=dict)
    step_ms: int = 0
    """Distance of points that were joined; 0: none was."""
    points: list[int] = field(default_factory=list)
    """Where in time the scored utterances are (start + end, the mean of joined ones), in order."""
    scored: list[int] = field(default_factory=list)
    """How many at each point."""
    scores: list[int] = field(default_factory=list)
    """The sum of their scores at each point, in 1/10,000."""
    loudness: list[int] = field(default_factory=lambda: [0] * 6)
    """Of utterances with a loudness y (1/100 LUFS) at the time x (start + end, 0.1 s), weighed by their length w in ms:
    how many, and the sums of w, wx, wy, wxx, wxy."""
    kept: bytes = b""
    """As it was dumped last; empty when it has changed since."""

    def add(self, score: Score, scores: bool) -> None:
        """One more utterance; without `scores` nothing is taken of it but its times and words."""
        length_ms, at = max(score.end_ms - score.start_ms, 0), score.start_ms + score.end_ms
        self.kept = b""
        self.utterances += 1
        self.words += len(score.words)
        self.talk_ms += length_ms
        if not scores:
            return
        if score.emotion is not None:
            label = score.emotion.label
            self.emotion_ms[label] = self.emotion_ms.get(label, 0) + length_ms
        if score.sentiment is not None:
            self.labels[score.sentiment.label] = self.labels.get(score.sentiment.label, 0) + 1
            place = bisect_right(self.points, at)
            self.points.insert(place, at)
            self.scored.insert(place, 1)
            self.scores.insert(place, round(score.sentiment.score * 10_000))
            if len(self.points) > POINTS:
                self._join_points()
        if score.acoustics is not None and score.acoustics.loudness_lufs is not None:
            w, x, y = length_ms, at // 100, round(score.acoustics.loudness_lufs * 100)
            added = 1, w, w * x, w * y, w * x * x, w * x * y
            self.loudness = [before + more for before, more in zip(self.loudness, added, strict=True)]

    def joined(self, others: Sequence["Voice"]) -> "Voice":
        """This and others as one, without the points in time."""
        every = [self, *others]
        return Voice(
            self.role,
            self.speaker,
            utterances=sum(voice.utterances for voice in every),
            words=sum(voice.words for voice in every),
            talk_ms=sum(voice.talk_ms for voice in every),
            labels=_summed(voice.labels for voice in every),
            emotion_ms=_summed(voice.emotion_ms for voice in every),
            loudness=[sum(sums) for sums in zip(*(voice.loudness for voice in every), strict=True)],
        )

    def _join_points(self) -> None:
        self.step_ms = max(self.step_ms, STEP_MS)
        while True:
            joined: dict[int, list[int]] = {}
            for at, n, total in zip(self.points, self.scored, self.scores, strict=True):
                point = joined.setdefault(at // (2 * self.step_ms), [0, 0, 0])
                point[0], point[1], point[2] = point[0] + at * n, point[1] + n, point[2] + total
            self.points = [at // n for at, n, _ in joined.values()]
            self.scored = [n for _, n, _ in joined.values()]
            self.scores = [total for *_, total in joined.values()]
            if len(self.points) <= POINTS // 2:
                return
            self.step_ms *= 2


@dataclass(slots=True)
class Floor:
    """Who speaks after whom, of utterances that are taken in the order of their start."""

    line: tuple[int, int] = (-1, -1)
    """Start and channel of the last one taken."""
    until_ms: int = 0
    """Up to where somebody has spoken."""
    by: int = -1
    """Whose voice it is that has spoken up to there."""
    holder: int = -1
    """Whose utterance began last."""
    run: tuple[int, int] = (0, 0)
    """Start and end of what the holder has said since nobody else began."""
    channels: dict[int, tuple[int, int]] = field(default_factory=dict)
    """For each channel, up to where somebody has spoken on it and whose voice it is."""
    monologues: dict[int, int] = field(default_factory=dict)
    """Longest run of each voice, ms."""
    taken: dict[tuple[int, int], int] = field(default_factory=dict)
    """How often the second took the floor from the first; −1 for the first words of the call."""
    responses: dict[tuple[int, int, int], int] = field(default_factory=dict)
    """How often the second answered the first after so many steps of RESPONSE_STEP_MS."""
    cut_ins: dict[tuple[int, int], int] = field(default_factory=dict)
    """How often the first interrupted the second."""
    overtalk: dict[tuple[int, int], int] = field(default_factory=dict)
    """How long both spoke after the first began while the second spoke, ms."""
    interruptions: list[tuple[int, int, int, int]] = field(default_factory=list)
    """(overtalk in ms, start, who, whom) of the longest."""
    silences: int = 0
    silence_ms: int = 0
    silent: list[tuple[int, int]] = field(default_factory=list)
    """(length in ms, start) of the longest silences."""
    late: int = 0
    """Utterances that came after what they should have come before: they have no part in all this."""
    kept: bytes = b""
    """As it was dumped last; empty when it has changed since."""

    def copy(self) -> "Floor":
        """The same, to go on from apart."""
        return Floor(
            self.line,
            self.until_ms,
            self.by,
            self.holder,
            self.run,
            self.channels.copy(),
            self.monologues.copy(),
            self.taken.copy(),
            self.responses.copy(),
            self.cut_ins.copy(),
            self.overtalk.copy(),
            self.interruptions.copy(),
            self.silences,
            self.silence_ms,
            self.silent.copy(),
            self.late,
        )

    def take(self, said: Said, same: Callable[[int, int], bool]) -> None:
        """The next utterance; `same` tells whether two voices are known to be one party."""
        self.kept = b""
        start_ms, channel, end_ms, voice = said
        if (start_ms, channel) < self.line:
            self.late += 1
            self._heard(channel, end_ms, voice)
            return
        self.line = start_ms, channel
        gap_ms = start_ms - self.until_ms
        if gap_ms >= SILENCE_MS:
            self.silences += 1
            self.silence_ms += gap_ms
            _keep(self.silent, (gap_ms, self.until_ms))
        if self.holder < 0 or not same(self.holder, voice):
            self.run = start_ms, end_ms
            taken = self.holder, voice
            self.taken[taken] = self.taken.get(taken, 0) + 1
        else:
            self.run = self.run[0], max(self.run[1], end_ms)
        self.holder = voice
        self.monologues[voice] = max(self.monologues.get(voice, 0), self.run[1] - self.run[0])
        # A reply that comes a little early is one without delay; what ends before the other does is none.
        if self.by >= 0 and not same(self.by, voice) and gap_ms > -INTERRUPTION_MS and end_ms > self.until_ms:
            response = self.by, voice, _steps(gap_ms)
            self.responses[response] = self.responses.get(response, 0) + 1
        others = [last for other, last in self.channels.items() if other != channel]
        until_ms, whom = max(others, default=(0, -1))
        overtalk_ms = min(end_ms, until_ms) - start_ms
        if overtalk_ms > 0:
            pair = voice, whom
            self.overtalk[pair] = self.overtalk.get(pair, 0) + overtalk_ms
            if overtalk_ms >= INTERRUPTION_MS:
                self.cut_ins[pair] = self.cut_ins.get(pair, 0) + 1
                _keep(self.interruptions, (overtalk_ms, start_ms, voice, whom))
        self._heard(channel, end_ms, voice)

    def _heard(self, channel: int, end_ms: int, voice: int) -> None:
        if end_ms > self.until_ms:
            self.until_ms, self.by = end_ms, voice
        if end_ms > self.channels.get(channel, (0, 0))[0]:
            self.channels[channel] = end_ms, voice


class Known:
    """Who is who by what corrections have told: which speakers turned out to be one, and what their roles are."""

    __slots__ = ("roles", "same_as")

    def __init__(self) -> None:
        self.same_as: dict[str, str] = {}
        self.roles: dict[str, Role] = {}

    def add(self, correction: Correction) -> str | None:
        """Take the next one, in the order of the topic; the speaker whose role it tells, if it tells one."""
        if correction.same_as:
            self.same_as[correction.speaker] = correction.same_as
            # One that merges nobody says what the role is, be it unknown again.
            if correction.role == "unknown":
                return None
        speaker = correction.same_as or correction.speaker
        self.roles[speaker] = correction.role
        return speaker

    def name(self, speaker: str) -> str:
        """The speaker's name by now: speaker-3 is speaker-2, and that is speaker-1."""
        # As many steps as there are merges: more cannot be needed, and a ring ends.
        for _ in self.same_as:
            speaker = self.same_as.get(speaker, speaker)
        return speaker

    def party(self, role: Role, speaker: str) -> tuple[Role, str]:
        """Role and speaker by now of what was recorded under these."""
        speaker = self.name(speaker)
        return self.roles.get(speaker, role), speaker


_VOICE: Final = tuple(one.name for one in fields(Voice) if one.name != "kept")
_FLOOR: Final = tuple(one.name for one in fields(Floor) if one.name != "kept")


class Tally:
    """A call so far. `hear` its events in the order of the topic; `dump` and `load` keep it.

    Attributes: `started`: the call's start was heard, so nothing is missing before; `ended`; `watermark_ms`: everything
    that began before it has been heard; `roles`: of the call's channels; `known`: who is who.
    """

    def __init__(self) -> None:
        self.started = False
        self.ended = False
        self.watermark_ms = 0
        self.roles: tuple[Role, ...] = ()
        self._voices: list[Voice] = []
        self._floor = Floor()
        self._waiting: list[Said] = []
        self.known = Known()
        self._party: list[tuple[Role, str]] = []
        """Of each voice, as it is known by now."""
        self._ahead: Floor | None = None
        self._told: tuple[list[tuple[int, int, int, int]], tuple[Interruption, ...]] | None = None
        self._silent: tuple[list[tuple[int, int]], tuple[Silence, ...]] | None = None
        self._by_quarter: list[list[tuple[int, int]]] | None = None

    # Hearing

    def hear(self, event: CallEvent, *, scores: bool = True) -> None:
        """Take the next event of the call; one of a kind that tells nothing of the conversation changes nothing.

        Without `scores` only times and words are counted, which makes the state a tenth as large.
        """
        self._ahead = self._by_quarter = None
        self.roles = event.call.roles
        if isinstance(event, Score):
            self._say(event, scores)
        elif isinstance(event, Progress):
            self._settle(event.at_ms)
        elif isinstance(event, Correction):
            self._told = None
            self.known.add(event)
            self._party = [self.known.party(voice.role, voice.speaker) for voice in self._voices]
        elif isinstance(event, CallStarted):
            self.started = True
        elif isinstance(event, CallEnded):
            self.ended = True
            self._settle(event.duration_ms)
            while self._waiting:
                self._floor.take(self._waiting.pop(0), self._same)

    def _say(self, score: Score, scores: bool) -> None:
        if CROSS_TALK in score.flags:
            return
        number = self._number(score.role, score.speaker)
        self._voices[number].add(score, scores)
        insort(self._waiting, (score.start_ms, score.channel, score.end_ms, number))
        if len(self._waiting) > WAITING:
            self._floor.take(self._waiting.pop(0), self._same)

    def _number(self, role: Role, speaker: str) -> int:
        for number, voice in enumerate(self._voices):
            if voice.speaker == speaker and voice.role == role:
                return number
        self._voices.append(Voice(role, speaker))
        self._party.append(self.known.party(role, speaker))
        return len(self._voices) - 1

    def _settle(self, watermark_ms: int) -> None:
        self.watermark_ms = max(self.watermark_ms, watermark_ms)
        while self._waiting and self._waiting[0][0] < self.watermark_ms:
            self._floor.take(self._waiting.pop(0), self._same)

    # Who is who

    def party(self, number: int) -> tuple[Role, str]:
        """Role and speaker of a voice as they are known by now."""
        return self._party[number]

    def _same(self, one: int, other: int) -> bool:
        return one == other or self._party[one] == self._party[other]

    def _parties(self) -> dict[tuple[Role, str], list[int]]:
        parties: dict[tuple[Role, str], list[int]] = {}
        for number, party in enumerate(self._party):
            parties.setdefault(party, []).append(number)
        return parties

    # Asking

    @property
    def now_ms(self) -> int:
        """Media time up to which anything is known: the end of the call once it has ended."""
        if self.ended:
            return self.watermark_ms
        return max([self.watermark_ms, self._floor.until_ms, *(end_ms for *_, end_ms, _ in self._waiting)])

    @property
    def late(self) -> int:
        """Utterances that came after what they should have come before; they are left out of turns and the like."""
        return self._floor.late

    @property
    def silent_since_ms(self) -> int:
        """Where the silence began that lasts at the watermark; the watermark itself while somebody speaks there."""
        return min(self._floor.until_ms, self.watermark_ms)

    @property
    def silence_now_ms(self) -> int:
        """How long nobody has spoken at the watermark. While somebody begins to, the watermark stands still."""
        return self.watermark_ms - self.silent_since_ms

    def silences(self) -> tuple[int, int, int, tuple[Silence, ...]]:
        """(number, their sum in ms, the longest in ms, the longest INSTANCES in order of time) of the dead air up to
        the watermark, what is going on there included as soon as it is long enough."""
        floor, now_ms = self._floor, self.silence_now_ms
        found = floor.silent
        n, all_ms = floor.silences, floor.silence_ms
        if now_ms >= SILENCE_MS:
            found = found.copy()
            _keep(found, (now_ms, floor.until_ms))
            n, all_ms = n + 1, all_ms + now_ms
        if self._silent is None or self._silent[0] != found:
            in_order = sorted((start_ms, start_ms + length_ms) for length_ms, start_ms in found)
            self._silent = found.copy(), tuple(Silence(start_ms=start, end_ms=end) for start, end in in_order)
        return n, all_ms, max((length_ms for length_ms, _ in found), default=0), self._silent[1]

    def interruptions(self) -> tuple[Interruption, ...] | None:
        """The longest INSTANCES in order of time; None where all parties share a channel."""
        if len(self.roles) < 2:
            return None
        found = self._now().interruptions
        if self._told is None or self._told[0] != found:
            in_order = sorted(found, key=lambda one: (one[1], one[2]))
            told = tuple(
                Interruption(start_ms=start_ms, overtalk_ms=ms, by=self.party(who)[1], of=self.party(whom)[1])
                for ms, start_ms, who, whom in in_order
            )
            self._told = found.copy(), told
        return self._told[1]

    def interruptions_by_role(self) -> dict[Role, int]:
        """How often each role has interrupted another party; empty where all parties share a channel."""
        counts: dict[Role, int] = {}
        if len(self.roles) > 1:
            for (who, _), n in self._now().cut_ins.items():
                role = self._party[who][0]
                counts[role] = counts.get(role, 0) + n
        return counts

    def talk_ms(self, role: Role | None = None) -> int:
        """How long a role, or everybody, has spoken."""
        pairs = zip(self._voices, self._party, strict=True)
        return sum([voice.talk_ms for voice, party in pairs if role is None or party[0] == role])

    def talk_share(self, role: Role) -> float | None:
        """A role's part of all talk so far, 0 to 1; None: nobody has spoken."""
        whole_ms = self.talk_ms()
        return self.talk_ms(role) / whole_ms if whole_ms else None

    def unheard(self) -> tuple[Role, ...]:
        """The roles that have a channel of the call and have not been heard."""
        heard = {role for role, _ in self._parties()}
        return tuple(dict.fromkeys(role for role in self.roles if role != "unknown" and role not in heard))

    def score(self) -> float | None:
        """Mean of all scored utterances, −1 to 1; None: there is none."""
        return _mean(self._scores(range(len(self._voices))))

    def quarters(self) -> tuple[float | None, ...]:
        """Mean score of everybody in each quarter of the call so far, −5 to 5; None: nothing scored there."""
        return _means(self._scores(range(len(self._voices))))

    def parties(self) -> tuple[PartyMetrics, ...]:
        """The figures of each party that was heard, in the order in which they came."""
        floor, all_ms = self._now(), self.talk_ms()
        apart = len(self.roles) > 1
        numbers_of = list(self._parties().values())
        whose = {number: party for party, numbers in enumerate(numbers_of) for number in numbers}
        # One pass over what was counted between two voices: each count is of one party, or of two.
        several = range(len(numbers_of))
        responses: list[dict[int, int]] = [{} for _ in several]
        turns, cut_ins, cut_off, overtalk_ms = ([0 for _ in several] for _ in range(4))
        for (to, by, steps), n in floor.responses.items():
            if whose[to] != (party := whose[by]):
                responses[party][steps] = responses[party].get(steps, 0) + n
        for (of, by), n in floor.taken.items():
            if of < 0 or whose[of] != whose[by]:
                turns[whose[by]] += n
        for (by, of), n in floor.cut_ins.items():
            if whose[by] != whose[of]:
                cut_ins[whose[by]] += n
                cut_off[whose[of]] += n
        for (by, _), ms in floor.overtalk.items():
            overtalk_ms[whose[by]] += ms
        return tuple(
            self._figures(
                numbers,
                all_ms,
                longest_monologue_ms=max(floor.monologues.get(number, 0) for number in numbers),
                turns=turns[party],
                responses=sum(responses[party].values()),
                response_ms=_median(responses[party]),
                interruptions=cut_ins[party] if apart else None,
                interrupted=cut_off[party] if apart else None,
                overtalk_ms=overtalk_ms[party] if apart else None,
            )
            for party, numbers in enumerate(numbers_of)
        )

    def _figures(self, numbers: Sequence[int], all_ms: int, **of_floor: Any) -> PartyMetrics:
        """Those of the party that has these voices, which were told apart until a correction merged them."""
        voice, *others = (self._voices[number] for number in numbers)
        if others:
            voice = voice.joined(others)
        role, speaker = self._party[numbers[0]]
        talk_ms, words, emotion_ms = voice.talk_ms, voice.words, voice.emotion_ms
        felt_ms = sum(emotion_ms.values())
        scores = self._scores(numbers)
        quarters = _means(scores)
        loudness, trend = _line(voice.loudness)
        return PartyMetrics(
            role=role,
            speaker=speaker,
            utterances=voice.utterances,
            words=words,
            talk_ms=talk_ms,
            talk_share=rounded(talk_ms / all_ms) if all_ms else 0.0,
            words_per_minute=rounded(words * 60_000 / talk_ms) if talk_ms else None,
            score=_mean(scores),
            negative=voice.labels.get("negative", 0),
            neutral=voice.labels.get("neutral", 0),
            positive=voice.labels.get("positive", 0),
            quarters=quarters,
            change=change(quarters),
            emotion_ms=emotion_ms,
            emotion_share={label: rounded(ms / felt_ms) for label, ms in emotion_ms.items() if felt_ms},
            loudness_lufs=loudness,
            loudness_trend=trend,
            **of_floor,
        )

    def _now(self) -> Floor:
        """The floor with what still waits for the watermark. Its silences are not to be used: something may yet come
        that began in them."""
        if not self._waiting:
            return self._floor
        if self._ahead is None:
            self._ahead = self._floor.copy()
            for said in self._waiting:
                self._ahead.take(said, self._same)
        return self._ahead

    def _scores(self, numbers: Iterable[int]) -> list[tuple[int, int]]:
        """For each quarter of the call so far, how many utterances of these voices were scored and the sum of it."""
        if self._by_quarter is None:
            # As in call_metrics: the quarter of an utterance is that in which its middle lies.
            length_ms = max(self.now_ms, 1)
            borders = [(quarter * length_ms + 1) // 2 for quarter in (1, 2, 3)]
            self._by_quarter = []
            for voice in self._voices:
                cuts = [0, *[bisect_left(voice.points, border) for border in borders], len(voice.points)]
                self._by_quarter.append(
                    [(sum(voice.scored[since:to]), sum(voice.scores[since:to])) for since, to in pairwise(cuts)]
                )
        theirs = [self._by_quarter[number] for number in numbers]
        if len(theirs) < 2:
            return theirs[0] if theirs else [(0, 0)] * 4
        return [(sum([n for n, _ in each]), sum([total for _, total in each])) for each in zip(*theirs, strict=True)]

    # Keeping

    def dump(self) -> str:
        """JSON from which `load` makes the same tally: a few hundred bytes, below 20 KB after four hours."""
        for voice in self._voices:
            voice.kept = voice.kept or to_json([getattr(voice, name) for name in _VOICE])
        floor = self._floor
        floor.kept = floor.kept or to_json([_listed(getattr(floor, name)) for name in _FLOOR])
        told = [self.started, self.ended, self.watermark_ms, self.roles]
        rest = to_json([*told, self._waiting, self.known.same_as, self.known.roles])
        voices = b",".join([voice.kept for voice in self._voices])
        return (b"%b,[%b],%b]" % (rest[:-1], voices, floor.kept)).decode()

    @classmethod
    def load(cls, dumped: str) -> "Tally":
        """The tally as it was dumped."""
        return cls.of(from_json(dumped))

    @classmethod
    def of(cls, state: list[Any]) -> "Tally":
        """The tally of what was dumped, read as JSON."""
        tally = cls()
        tally.started, tally.ended, tally.watermark_ms, roles, waiting, *known, voices, floor = state
        tally.known.same_as, tally.known.roles = known
        tally.roles = tuple(roles)
        tally._waiting = [(start_ms, channel, end_ms, voice) for start_ms, channel, end_ms, voice in waiting]
        tally._voices = [Voice(*values) for values in voices]
        tally._party = [tally.known.party(voice.role, voice.speaker) for voice in tally._voices]
        like = tally._floor
        tally._floor = Floor(
            *(_unlisted(value, getattr(like, name)) for value, name in zip(floor, _FLOOR, strict=True))
        )
        return tally


def change(quarters: Sequence[float | None]) -> float | None:
    """The last quarter in which anything was scored less the first; None: there is one at most."""
    known = [quarter for quarter in quarters if quarter is not None]
    return rounded(known[-1] - known[0]) if len(known) > 1 else None


def _steps(gap_ms: int) -> int:
    return (min(max(gap_ms, 0), RESPONSE_MOST_MS) + RESPONSE_STEP_MS // 2) // RESPONSE_STEP_MS


def _median(steps: dict[int, int]) -> int | None:
    """Of how often each number of steps was counted, in ms."""
    middle, seen, lower = sum(steps.values()) - 1, 0, None
    for step in sorted(steps):
        seen += steps[step]
        if lower is None and seen > middle // 2:
            lower = step
        if lower is not None and seen > (middle + 1) // 2:
            return (lower + step) * RESPONSE_STEP_MS // 2
    return None


def _mean(scores: Iterable[Sequence[int]]) -> float | None:
    """Of (how many, their sum in 1/10,000)."""
    n = total = 0
    for more, added in scores:
        n, total = n + more, total + added
    return rounded(total / (n * 10_000)) if n else None


def _means(scores: Iterable[Sequence[int]]) -> tuple[float | None, ...]:
    """Of each, −5 to 5."""
    return tuple([rounded(total * 5 / (n * 10_000)) if n else None for n, total in scores])


def _line(sums: Sequence[int]) -> tuple[float | None, float | None]:
    """Mean loudness in LUFS, and its slope in dB a minute by least squares."""
    n, w, wx, wy, wxx, wxy = sums
    if not w:
        return None, None
    spread = w * wxx - wx * wx
    slope = rounded((w * wxy - wx * wy) / spread * 12) if n >= TREND_FROM and spread else None
    return rounded(wy / w / 100), slope


def _summed(counts: Iterable[dict[Any, int]]) -> dict[Any, int]:
    sums: dict[Any, int] = {}
    for one in counts:
        for key, n in one.items():
            sums[key] = sums.get(key, 0) + n
    return sums


def _keep(longest: list[Any], one: tuple[int, ...]) -> None:
    """Add one to the INSTANCES that are kept: the shortest of too many goes, of equals the latest."""
    longest.append(one)
    if len(longest) > INSTANCES:
        longest.remove(min(longest, key=lambda kept: (kept[0], -kept[1])))


def _listed(value: Any) -> Any:
    """JSON's objects have only strings for keys."""
    return list(value.items()) if isinstance(value, dict) else value


def _unlisted(value: Any, like: Any) -> Any:
    if isinstance(like, dict):
        return {tuple(key) if isinstance(key, list) else key: _tupled(kept) for key, kept in value}
    if isinstance(like, list):
        return [tuple(one) for one in value]
    return _tupled(value)


def _tupled(value: Any) -> Any:
    return tuple(value) if isinstance(value, list) else value
