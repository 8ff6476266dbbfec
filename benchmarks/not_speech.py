"""What a telephone line carries that is nobody speaking, made from formulas: hold music, the network's tones, modems,
noise. `kinds(rate)` makes all of it.

A changer must know: a sound is made from its name and the number of its take, so it is the same in every run; tests and
the figures of docs/vad.md rest on that. Nobody sings here: a voice in hold music is a voice.
"""

import zlib
from collections.abc import Callable, Iterator, Sequence
from typing import Final

import numpy as np
from numpy.typing import NDArray

from processors import audio

Floats = NDArray[np.float32]
Doubles = NDArray[np.float64]

RATE: Final = 16_000
"""Sounds are made at this rate and brought to the one asked for."""
SECONDS: Final = 20


def _time(seconds: float) -> Doubles:
    return np.arange(round(seconds * RATE)) / RATE


def _band(samples: Doubles, low: float, high: float) -> Doubles:
    """What of `samples` lies between two frequencies (brick wall)."""
    spectrum, at = np.fft.rfft(samples), np.fft.rfftfreq(len(samples), 1 / RATE)
    return np.fft.irfft(np.where((at >= low) & (at <= high), spectrum, 0), len(samples))


# Music

_MAJOR: Final = (0, 2, 4, 5, 7, 9, 11)
_MINOR: Final = (0, 2, 3, 5, 7, 8, 10)
_CHORDS: Final = ((0, 4, 5, 3), (0, 5, 3, 4), (5, 3, 0, 4), (0, 3, 0, 4))
"""Progressions as degrees of the scale."""

Instrument = Callable[[float, float, np.random.Generator], Doubles]
"""(frequency, seconds, numbers) → a note."""


def _harmonics(
    hertz: float,
    seconds: float,
    weights: Sequence[float],
    attack_s: float,
    decay_s: float,
    vibrato: float = 0.0,
    rng: np.random.Generator | None = None,
) -> Doubles:
    """A note of overtones; each higher one dies away sooner. `vibrato`: deviation of the pitch, at 5 to 6 Hz."""
    t = _time(seconds)
    wobble = 5.5 if rng is None else rng.uniform(5, 6)
    phase = 2 * np.pi * hertz * (t + vibrato * np.sin(2 * np.pi * wobble * t) / (2 * np.pi * wobble))
    note = np.zeros_like(t)
    for i, weight in enumerate(weights, 1):
        if i * hertz < RATE / 2:
            note += weight * np.sin(i * phase) * np.exp(-t * i**0.5 / decay_s)
    ends = np.minimum(np.minimum(t / attack_s, 1), np.minimum((seconds - t) / 0.03, 1))
    return note * ends


def _piano(hertz: float, seconds: float, rng: np.random.Generator) -> Doubles:
    return _harmonics(hertz, seconds, [1, 0.5, 0.3, 0.2, 0.12, 0.08, 0.05], 0.005, 0.7)


def _strings(hertz: float, seconds: float, rng: np.random.Generator) -> Doubles:
    voices = [
        _harmonics(hertz * detune, seconds, [1 / i for i in range(1, 16)], 0.15, 30, 0.004, rng)
        for detune in (0.997, 1, 1.004)
    ]
    return np.sum(voices, axis=0) / 3


def _violin(hertz: float, seconds: float, rng: np.random.Generator) -> Doubles:
    return _harmonics(hertz, seconds, [1, 0.8, 0.9, 0.6, 0.5, 0.45, 0.3, 0.25, 0.2, 0.15, 0.1], 0.08, 30, 0.012, rng)


def _flute(hertz: float, seconds: float, rng: np.random.Generator) -> Doubles:
    note = _harmonics(hertz, seconds, [1, 0.35, 0.12, 0.05], 0.06, 30, 0.006, rng)
    return note + 0.03 * _band(rng.normal(0, 1, len(note)), 1_000, 5_000)


def _saxophone(hertz: float, seconds: float, rng: np.random.Generator) -> Doubles:
    """Rich overtones through two broad resonances, with a scoop into the note: the one nearest to a voice."""
    weights = [
        np.exp(-(((i * hertz - 700) / 500) ** 2)) + 0.6 * np.exp(-(((i * hertz - 1_600) / 700) ** 2)) + 0.1 / i
        for i in range(1, 18)
    ]
    return _harmonics(hertz, seconds, weights, 0.05, 30, 0.015, rng)


def _guitar(hertz: float, seconds: float, rng: np.random.Generator) -> Doubles:
    """Karplus and Strong 1983: noise in a delay line that averages neighbours."""
    period, n = round(RATE / hertz), round(seconds * RATE)
    string, note = rng.uniform(-1, 1, period), np.empty(n + period)
    for first in range(0, n, period):
        note[first : first + period] = string
        string = 0.498 * (string + np.roll(string, -1))
    return note[:n]


def _synthesizer(hertz: float, seconds: float, rng: np.random.Generator) -> Doubles:
    return _harmonics(hertz, seconds, [1, 0, 0.33, 0, 0.2, 0, 0.14, 0, 0.11], 0.01, 4)


def _organ(hertz: float, seconds: float, rng: np.random.Generator) -> Doubles:
    return _harmonics(hertz, seconds, [1, 0.8, 0.4, 0.5, 0, 0.3, 0, 0.3], 0.02, 60, 0.003)


def _resonances(note: Doubles, *formants: tuple[float, float]) -> Doubles:
    """A note through fixed resonances (hertz, width)."""
    spectrum, at = np.fft.rfft(note), np.fft.rfftfreq(len(note), 1 / RATE)
    return np.fft.irfft(spectrum * np.sum([np.exp(-(((at - f) / width) ** 2)) for f, width in formants], 0), len(note))


def _choir(hertz: float, seconds: float, rng: np.random.Generator) -> Doubles:
    """Voices on an "ah", as keyboards have them: twelve sources a little apart, three formants."""
    voices = [
        _harmonics(hertz * 2 ** rng.normal(0, 0.008), seconds, [1 / i for i in range(1, 20)], 0.2, 60, 0.01, rng)
        for _ in range(6)
    ]
    return _resonances(np.sum(voices, axis=0), (700, 120), (1_150, 150), (2_800, 300)) / 2


def _wah(hertz: float, seconds: float, rng: np.random.Generator) -> Doubles:
    """An electric guitar with a pedal that opens and closes with every note, as a mouth does."""
    string, t = _guitar(hertz, seconds, rng), _time(seconds)
    string = np.tanh(5 * string)
    opened = np.clip(np.sin(np.pi * t / min(seconds, 0.4)), 0, 1)
    closed = _resonances(string, (450, 150), (900, 200))
    return closed * (1 - opened) + opened * _resonances(string, (900, 200), (1_500, 250), (2_500, 300))


def _slide(hertz: float, seconds: float, rng: np.random.Generator) -> Doubles:
    """A slide guitar or a theremin: the pitch glides all the time."""
    t = _time(seconds)
    glide = hertz * 2 ** (rng.uniform(-4, 4) / 12 * np.exp(-t / 0.15) + 0.02 * np.sin(2 * np.pi * 5.5 * t))
    phase = 2 * np.pi * np.cumsum(glide) / RATE
    note = np.sum([np.sin(i * phase) / i for i in range(1, 12)], axis=0)
    return note * np.minimum(np.minimum(t / 0.05, 1), np.minimum((seconds - t) / 0.05, 1))


def _trumpet(hertz: float, seconds: float, rng: np.random.Generator) -> Doubles:
    """With a plunger mute: "wah, wah"."""
    note = _harmonics(hertz, seconds, [1] * 14, 0.04, 30, 0.01, rng)
    opened = 0.5 - 0.5 * np.cos(2 * np.pi * rng.uniform(2, 4) * _time(seconds))
    return opened * _resonances(note, (800, 250), (1_400, 400)) + (1 - opened) * _resonances(note, (400, 200))


def _drums(seconds: float, beat_s: float, rng: np.random.Generator) -> Doubles:
    """Kick on one and three, snare on two and four, hi-hat on the eighths."""
    track = np.zeros(round(seconds * RATE))

    def hit(at_s: float, sound: Doubles) -> None:
        first = round(at_s * RATE)
        track[first : first + len(sound)] += sound[: len(track) - first]

    t = _time(0.2)
    for i, at_s in enumerate(np.arange(0, seconds - 0.3, beat_s / 2)):
        hit(at_s, 0.15 * _band(rng.normal(0, 1, len(t)), 5_000, 8_000) * np.exp(-t / 0.02))
        if i % 4 == 0:
            hit(at_s, np.sin(2 * np.pi * (50 * t + 4 * (1 - np.exp(-t / 0.03)))) * np.exp(-t / 0.08))
        if i % 4 == 2:
            hit(at_s, 0.5 * _band(rng.normal(0, 1, len(t)), 300, 7_000) * np.exp(-t / 0.05))
    return track


def _hertz(key: int, scale: Sequence[int], degree: int, octave: int) -> float:
    octave += degree // 7
    return 440.0 * 2 ** ((key + scale[degree % 7] - 9) / 12 + octave - 4)


def music(
    lead: Instrument | None, chords: Instrument | None, drums: bool, rng: np.random.Generator, seconds: float = SECONDS
) -> Floats:
    """A piece in 4/4: a bass and a chord for each bar, a melody that walks along the scale."""
    beat_s, key = 60 / rng.uniform(70, 130), int(rng.integers(12))
    scale = _MAJOR if rng.random() < 0.6 else _MINOR
    progression = _CHORDS[rng.integers(len(_CHORDS))]
    track = np.zeros(round(seconds * RATE))

    def add(at_s: float, note: Doubles, level: float) -> None:
        first = round(at_s * RATE)
        track[first : first + len(note)] += level * note[: max(len(track) - first, 0)]

    degree = 7
    for bar, at_s in enumerate(np.arange(0, seconds, 4 * beat_s)):
        root = progression[bar % 4]
        if chords is not None:
            for step in (0, 2, 4):
                add(at_s, chords(_hertz(key, scale, root + step, 3), 4 * beat_s, rng), 0.25)
            add(at_s, chords(_hertz(key, scale, root, 2), 4 * beat_s, rng), 0.35)
        beat = 0.0
        while lead is not None and beat < 4:
            length = float(rng.choice([0.5, 1, 1.5, 2]))
            if rng.random() < 0.85:
                degree = int(np.clip(degree + rng.integers(-3, 4), 3, 14))
                add(at_s + beat * beat_s, lead(_hertz(key, scale, degree, 4), length * beat_s, rng), 0.5)
            beat += length
    if drums:
        track += 0.6 * _drums(seconds, beat_s, rng)
    return _level(track)


# Tones of the network. Frequencies and cadences: ITU-T E.180 supplement 2, Q.23 (DTMF), T.30 (fax), V.21 (modem)


def _tones(hertz: Sequence[float], seconds: float) -> Doubles:
    t = _time(seconds)
    return np.sum([np.sin(2 * np.pi * f * t) for f in hertz], axis=0) / len(hertz)


def _cadence(hertz: Sequence[float], *on_off: float) -> Callable[[np.random.Generator], Doubles]:
    """Tone and silence in turn."""

    def make(rng: np.random.Generator) -> Doubles:
        once = [_tones(hertz, s) if i % 2 == 0 else np.zeros(round(s * RATE)) for i, s in enumerate(on_off)]
        return np.resize(np.concatenate(once), SECONDS * RATE)

    return make


def _dtmf(on_s: float, off_s: float) -> Callable[[np.random.Generator], Doubles]:
    """Keys pressed at random, with pauses for thought."""

    def make(rng: np.random.Generator) -> Doubles:
        pieces: list[Doubles] = []
        while sum(map(len, pieces)) < SECONDS * RATE:
            key = (rng.choice([697.0, 770.0, 852.0, 941.0]), rng.choice([1209.0, 1336.0, 1477.0, 1633.0]))
            pieces += [_tones(key, on_s), np.zeros(round(off_s * RATE))]
            if rng.random() < 0.1:
                pieces.append(np.zeros(RATE))
        return np.concatenate(pieces)[: SECONDS * RATE]

    return make


def _sit(rng: np.random.Generator) -> Doubles:
    """Special information tone: "the number you have dialled …"."""
    rise = [_tones([f], 0.33) for f in (950, 1_400, 1_800)]
    return np.resize(np.concatenate([*rise, np.zeros(RATE)]), SECONDS * RATE)


def _answer_tone(rng: np.random.Generator) -> Doubles:
    """2100 Hz, its phase turned every 450 ms, its level swaying at 15 Hz (V.8's ANSam); 3.3 s, then a pause."""
    t = _time(3.3)
    tone = np.sin(2 * np.pi * 2_100 * t) * np.where(t // 0.45 % 2 == 0, 1, -1) * (1 + 0.2 * np.sin(2 * np.pi * 15 * t))
    return np.resize(np.concatenate([tone, np.zeros(RATE)]), SECONDS * RATE)


def _fsk(rng: np.random.Generator) -> Doubles:
    """300 bit/s between 1650 and 1850 Hz, in frames of 1 to 3 s: fax negotiation."""
    pieces: list[Doubles] = []
    while sum(map(len, pieces)) < SECONDS * RATE:
        bits = np.repeat(rng.integers(0, 2, int(rng.integers(300, 900))), RATE // 300)
        pieces += [np.sin(2 * np.pi * np.cumsum(np.where(bits, 1_650, 1_850)) / RATE), np.zeros(RATE)]
    return np.concatenate(pieces)[: SECONDS * RATE]


def _qam(rng: np.random.Generator) -> Doubles:
    """A fast modem: noise-like, 600 to 3000 Hz, 5 s at a time."""
    noise = _band(rng.normal(0, 0.4, SECONDS * RATE), 600, 3_000)
    return noise * (_time(SECONDS) % 6 < 5)


# Noise


def _hiss(rng: np.random.Generator) -> Doubles:
    return rng.normal(0, 1, SECONDS * RATE)


def _pink(rng: np.random.Generator) -> Doubles:
    """A fan or a car: energy falls with the frequency."""
    spectrum = np.fft.rfft(rng.normal(0, 1, SECONDS * RATE))
    at = np.fft.rfftfreq(SECONDS * RATE, 1 / RATE)
    return np.fft.irfft(spectrum / np.maximum(at, 30), SECONDS * RATE)


def _hum(hertz: float) -> Callable[[np.random.Generator], Doubles]:
    def make(rng: np.random.Generator) -> Doubles:
        t = _time(SECONDS)
        return np.sum([np.sin(2 * np.pi * i * hertz * t) / i for i in (1, 2, 3, 5, 7)], axis=0)

    return make


def _clicks(rng: np.random.Generator) -> Doubles:
    """Three bad contacts a second."""
    noise = np.zeros(SECONDS * RATE)
    at = rng.integers(0, len(noise), 3 * SECONDS)
    noise[at] = rng.uniform(-1, 1, len(at))
    return np.convolve(noise, np.exp(-np.arange(80) / 20), "same")


def _typing(rng: np.random.Generator) -> Doubles:
    """Keys struck at 2 to 8 a second."""
    noise, at_s, t = np.zeros(SECONDS * RATE), 0.0, _time(0.03)
    while at_s < SECONDS - 0.1:
        first = round(at_s * RATE)
        noise[first : first + len(t)] += rng.uniform(0.2, 1) * rng.normal(0, 1, len(t)) * np.exp(-t / 0.006)
        at_s += rng.uniform(0.12, 0.5)
    return _band(noise, 300, 7_000)


def _gsm(rng: np.random.Generator) -> Doubles:
    """A mobile phone beside the handset: bursts at 217 Hz, for half a second again and again."""
    t = _time(SECONDS)
    return np.where(t * 217 % 1 < 0.125, 1.0, 0.0) * (t % 1.5 < 0.6)


def _wind(rng: np.random.Generator) -> Doubles:
    """Gusts in a microphone."""
    gusts = np.interp(_time(SECONDS), np.arange(SECONDS + 1), rng.uniform(0, 1, SECONDS + 1) ** 2)
    return _band(_pink(rng), 20, 800) * gusts


def _level(samples: Doubles, peak: float = 0.5) -> Floats:
    return (samples * (peak / np.max(np.abs(samples)))).astype(np.float32)


def _tone(make: Callable[[np.random.Generator], Doubles], peak: float) -> Callable[[np.random.Generator], Floats]:
    return lambda rng: _level(make(rng), peak)


def _piece(
    lead: Instrument | None, chords: Instrument | None, drums: bool = False
) -> Callable[[np.random.Generator], Floats]:
    return lambda rng: music(lead, chords, drums, rng)


KINDS: Final[dict[str, dict[str, Callable[[np.random.Generator], Floats]]]] = {
    "music": {
        "piano": _piece(_piano, _piano),
        "strings": _piece(_violin, _strings),
        "strings, chords only": _piece(None, _strings),
        "violin alone": _piece(_violin, None),
        "flute and piano": _piece(_flute, _piano),
        "flute alone": _piece(_flute, None),
        "saxophone alone": _piece(_saxophone, None),
        "saxophone and band": _piece(_saxophone, _piano, True),
        "guitar": _piece(_guitar, _guitar),
        "synthesizer and drums": _piece(_synthesizer, _strings, True),
        "organ": _piece(_organ, _organ),
        "guitar and drums": _piece(_guitar, _piano, True),
        "choir pad": _piece(None, _choir),
        "wah guitar and band": _piece(_wah, _piano, True),
        "wah guitar alone": _piece(_wah, None),
        "slide guitar": _piece(_slide, _guitar),
        "slide alone": _piece(_slide, None),
        "muted trumpet": _piece(_trumpet, None),
        "muted trumpet and band": _piece(_trumpet, _piano, True),
    },
    "tones": {
        "ringing, US": _tone(_cadence([440, 480], 2, 4), 0.2),
        "ringing, EU": _tone(_cadence([425], 1, 4), 0.2),
        "ringing, UK": _tone(_cadence([400, 450], 0.4, 0.2, 0.4, 2), 0.2),
        "busy, US": _tone(_cadence([480, 620], 0.5, 0.5), 0.2),
        "busy, EU": _tone(_cadence([425], 0.48, 0.48), 0.2),
        "dial tone": _tone(_cadence([350, 440], SECONDS), 0.2),
        "call waiting": _tone(_cadence([440], 0.3, 9.7), 0.2),
        "number unobtainable": _tone(_sit, 0.2),
        "DTMF, fast": _tone(_dtmf(0.07, 0.07), 0.3),
        "DTMF, by hand": _tone(_dtmf(0.2, 0.25), 0.3),
    },
    "modem": {
        "fax calling": _tone(_cadence([1_100], 0.5, 3), 0.2),
        "fax answering": _tone(_answer_tone, 0.2),
        "300 bit/s": _tone(_fsk, 0.2),
        "modem": _tone(_qam, 0.4),
    },
    "noise": {
        "hiss": _tone(_hiss, 0.1),
        "loud hiss": _tone(_hiss, 0.5),
        "fan": _tone(_pink, 0.2),
        "hum, 50 Hz": _tone(_hum(50), 0.2),
        "hum, 60 Hz": _tone(_hum(60), 0.2),
        "clicks": _tone(_clicks, 0.5),
        "typing": _tone(_typing, 0.5),
        "mobile phone": _tone(_gsm, 0.3),
        "wind": _tone(_wind, 0.4),
    },
}
"""By group: name → what makes SECONDS of it at RATE."""


def kinds(rate: int, take: int = 0) -> Iterator[tuple[str, str, Floats]]:
    """(group, name, float32 samples of SECONDS at `rate`) of each sound. Another `take`: other notes and noise."""
    for group, makers in KINDS.items():
        for name, make in makers.items():
            rng = np.random.default_rng([zlib.crc32(name.encode()), take])
            yield group, name, audio.resample(make(rng), RATE, rate)
