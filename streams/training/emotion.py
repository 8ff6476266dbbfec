"""`calltide train emotion`: a head on the packaged encoder, from one's own labelled clips, without torch.

Mean and standard deviation over time of three layers of whisper-tiny.en's encoder, reduced to principal directions; on
them small nets whose logits are averaged; one temperature. The committed head is made by the same functions
(training/train_emotion.py). A changer must know: everything is seeded and in one thread, so that the same clips give
the same head on one machine, and only `export` needs the package onnx.
"""

import importlib.util
import json
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any, Final

import numpy as np
import soxr
from numpy.typing import NDArray

from processors.audio import decode, encode, resample
from processors.models.emotion import EMOTIONS, HEAD, MEANT_AS, RATE, WhisperEncoder, WhisperStatsEmotion, onto_six
from schemas.errors import CalltideError
from streams.evaluation.manifest import ALIASES, SUFFIXES
from streams.files import open_audio
from streams.training import common

Array = NDArray[np.float32]
Rows = NDArray[np.intp]

CLASSES: Final = (*EMOTIONS, *MEANT_AS)
LAYERS: Final = slice(1, 4)
"""The outputs of the first three of the encoder's four layers. Measured by cross-validation: with the input and the
fourth besides, unweighted accuracy is 1 to 4 points lower."""
BANDS: Final = ("wide", "G.711")
DIRECTIONS, HIDDEN, NETS, EPOCHS, PATIENCE = 200, 128, 3, 15, 5
LIMITS: Final = (
    "The figures are of speakers (or, where speakers are not known, of clips) of these recordings. Other microphones, "
    "languages and ways of speaking give less.",
    "Probabilities are calibrated for the classes as frequent as in training, each weighing the same.",
)


@dataclass(frozen=True, slots=True)
class Clip:
    """A recording of one person and what was meant."""

    file: Path
    emotion: str
    speaker: str = ""


def read_clips(data: Path) -> list[Clip]:
    """The clips of a directory: of `index.jsonl` (file, emotion, speaker), or else of one folder an emotion.

    In a folder of an emotion, a clip's subfolder is its speaker. Raises CalltideError for what cannot be used.
    """
    if not data.is_dir():
        raise CalltideError(f"{data} is no directory; give the folder of labelled clips with --data")
    index = data / "index.jsonl"
    clips = _listed(index) if index.is_file() else _in_folders(data)
    if not clips:
        raise CalltideError(
            f"no clips in {data}; give an index.jsonl with file, emotion and speaker, or a folder for each emotion"
        )
    return clips


def _listed(index: Path) -> list[Clip]:
    clips: list[Clip] = []
    lines: dict[Path, int] = {}
    for number, line in enumerate(common.text_of(index).split("\n"), 1):
        if not line.strip():
            continue
        where = f"{index}, line {number}"
        try:
            row = json.loads(line)
            speaker = row.get("speaker")
            clip = Clip(
                index.parent / row["file"], _class(row["emotion"], where), "" if speaker is None else str(speaker)
            )
        except (ValueError, KeyError, TypeError, AttributeError) as error:
            raise CalltideError(f"{where} is not as expected ({error!r}); write file, emotion and speaker") from None
        if not clip.file.is_file():
            raise CalltideError(f"{where} names {clip.file}, which is missing; mend the line or bring the file")
        if clip.file in lines:  # it could be both trained on and measured on
            raise CalltideError(f"{where} names {clip.file} as line {lines[clip.file]} does; take one of them out")
        lines[clip.file] = number
        clips.append(clip)
    return clips


def _in_folders(data: Path) -> list[Clip]:
    clips = []
    for folder in sorted(path for path in data.iterdir() if path.is_dir() and not path.name.startswith(".")):
        emotion = _class(folder.name, str(folder))
        for file in sorted(file for file in folder.rglob("*") if file.suffix.lower() in SUFFIXES):
            inner = file.relative_to(folder).parts
            clips.append(Clip(file, emotion, inner[0] if len(inner) > 1 else ""))
    return clips


def _class(name: str, where: str) -> str:
    known = ALIASES.get(name.lower(), name.lower())
    if known not in CLASSES:
        raise CalltideError(f"{where}: unknown emotion {name!r}; known are {', '.join(CLASSES)}")
    return known


def load(file: Path) -> Array:
    """A recording as mono 16 kHz samples. Raises CalltideError for what is no audio or empty."""
    audio = open_audio(file, mix=True)
    blocks = [block[:, 0] for block in audio.blocks()]
    if not sum(map(len, blocks)):
        raise CalltideError(f"{file} holds no audio; take it out")
    return resample(np.ascontiguousarray(np.concatenate(blocks)), audio.rate, RATE)


def telephone(samples: Array) -> Array:
    """The same at 16 kHz after a way over a telephone line: 8 kHz, G.711 mu-law."""
    return resample(decode(encode(resample(samples, RATE, 8_000), "mulaw"), "mulaw"), 8_000, RATE)


def disturbed(samples: Array, generator: np.random.Generator) -> Array:
    """Up to 7 % slower or faster, half of the longer ones cut by up to 30 %, white or pink noise at 8 to 35 dB."""
    sound: NDArray[Any] = soxr.resample(samples, RATE, RATE * generator.uniform(0.93, 1.07))
    if len(sound) > 1.5 * RATE and generator.random() < 0.5:
        length = int(len(sound) * generator.uniform(0.7, 1))
        first = generator.integers(0, len(sound) - length + 1)
        sound = sound[first : first + length]
    noise = generator.standard_normal(len(sound))
    if generator.random() < 0.6:
        spectrum = np.fft.rfft(noise)
        noise = np.fft.irfft(spectrum / np.sqrt(np.maximum(np.arange(len(spectrum)), 1)), len(sound))
    snr_db = generator.uniform(8, 35)
    noise *= np.sqrt(np.mean(sound**2) / np.mean(noise**2)) * 10 ** (-snr_db / 20)
    return (sound + noise).astype(np.float32)


def versions(samples: Array, seed: int) -> list[Array]:
    """Wide, G.711, and both again of a disturbed copy each."""
    generator = np.random.default_rng(seed)
    disturbed_wide = disturbed(samples, generator)
    return [samples, telephone(samples), disturbed_wide, telephone(disturbed(samples, generator))]


def pooled(states: Array) -> Array:
    """(6, positions, 384) → (2304,): mean and standard deviation over time of the layers used."""
    used = states[LAYERS]
    return np.concatenate([used.mean(1), used.std(1)], 1).ravel()


def features(recordings: Sequence[Callable[[], Array]], encoder: WhisperEncoder) -> Array:
    """(recordings, 4 versions, 2304) statistics."""
    return np.stack(
        [
            np.stack([pooled(encoder.states(version)) for version in versions(recording(), number)])
            for number, recording in enumerate(common.progress(recordings, "listening to the clips"))
        ]
    )


@dataclass(frozen=True, slots=True)
class Net:
    """One hidden layer: (directions) → (hidden) → (classes)."""

    inner: Array
    inner_bias: Array
    outer: Array
    outer_bias: Array


@dataclass(frozen=True, slots=True)
class Head:
    """Statistics of an utterance → logits. All arrays float32."""

    classes: tuple[str, ...]
    mean: Array
    directions: Array
    nets: tuple[Net, ...]
    temperature: float = 1.0

    def logits(self, x: Array) -> Array:
        """(n, 2304) → (n, classes), before the temperature."""
        reduced = project(x, self.mean, self.directions)
        logits: Array = np.mean([_forward(net, reduced)[1] for net in self.nets], axis=0)
        return logits


def project(x: Array, mean: Array, directions: Array) -> Array:
    """(n, d) onto (d, directions)."""
    return np.asarray((x - mean) @ directions, np.float32)


def _forward(net: Net, x: Array) -> tuple[Array, Array]:
    hidden = np.maximum(x @ net.inner + net.inner_bias, 0)
    return hidden, hidden @ net.outer + net.outer_bias


def softmax(logits: Array) -> Array:
    """Over the last axis."""
    shares: Array = np.exp(logits - logits.max(-1, keepdims=True))
    return shares / shares.sum(-1, keepdims=True)


def losses(logits: Array, label: Rows, weight: Array) -> float:
    """Mean cross-entropy of (n, classes) logits, each row weighing as its class does."""
    shares = softmax(logits)[np.arange(len(label)), label]
    return float(-(weight[label] * np.log(np.maximum(shares, 1e-9))).sum() / weight[label].sum())


def balance(label: Rows, classes: int) -> Array:
    """The weight of each class that makes all that occur weigh the same; 0 where one does not occur."""
    counts = np.bincount(label, minlength=classes)
    return np.where(counts > 0, len(label) / np.maximum(counts, 1) / np.count_nonzero(counts), 0).astype(np.float32)


def principal_directions(x: Array, count: int) -> tuple[Array, Array]:
    """(mean, directions (d, count)) onto which (n, d) `x`, each column scaled to a spread of 1, spreads the most."""
    mean, spread = x.mean(0), x.std(0) + np.float32(1e-5)
    scaled = (x - mean) / spread
    # Randomised range finder with two power iterations (Halko et al. 2011), seeded.
    basis = scaled @ np.random.default_rng(0).standard_normal((x.shape[1], count + 20)).astype(np.float32)
    for _ in range(2):
        basis = np.linalg.qr(scaled @ (scaled.T @ basis))[0]
    basis = np.linalg.qr(basis)[0]
    directions = np.linalg.svd(basis.T @ scaled, full_matrices=False)[2][:count].T / spread[:, None]
    return mean, np.ascontiguousarray(directions / ((x - mean) @ directions).std(), dtype=np.float32)


def fit(
    classes: Sequence[str],
    x: Array,
    label: Rows,
    held: tuple[Array, Rows] | None = None,
    say: Callable[[str], None] | None = None,
) -> Head:
    """A head for (clips, versions, 2304) statistics; every class weighs the same, however frequent.

    With `held` (validation clips) each net keeps the round with the lowest loss there and stops after PATIENCE rounds
    without a lower one; without, all EPOCHS of a schedule are done.
    """
    flat, labels = x.reshape(-1, x.shape[2]), np.repeat(label, x.shape[1])
    mean, directions = principal_directions(flat, min(DIRECTIONS, len(flat) // 2))
    reduced = project(flat, mean, directions)
    seen = None
    if held is not None:
        heard = project(held[0].reshape(-1, x.shape[2]), mean, directions)
        seen = heard, np.repeat(held[1], held[0].shape[1])
    nets = []
    for seed in range(NETS):
        net, rounds, loss = _fit_net(reduced, labels, len(classes), seed, seen)
        nets.append(net)
        if say:
            told = f", best round {rounds}, validation loss {loss:.3f}" if held else ""
            say(f"net {seed + 1} of {NETS} trained{told}")
    return Head(tuple(classes), mean, directions, tuple(nets))


def _fit_net(x: Array, label: Rows, classes: int, seed: int, held: tuple[Array, Rows] | None) -> tuple[Net, int, float]:
    """AdamW (Loshchilov & Hutter 2019) with dropout and a learning rate that rises and falls (Smith 2018)."""
    generator = np.random.default_rng(seed)
    weight = balance(label, classes)

    def start(rows: int, columns: int) -> Array:
        return generator.uniform(-1, 1, (rows, columns)).astype(np.float32) / np.float32(rows**0.5)

    hidden_bias, outer_bias = np.zeros(HIDDEN, np.float32), np.zeros(classes, np.float32)
    values = [start(x.shape[1], HIDDEN), hidden_bias, start(HIDDEN, classes), outer_bias]
    first, second = [np.zeros_like(v) for v in values], [np.zeros_like(v) for v in values]
    batches = -(-len(x) // min(256, max(16, len(x) // 20)))  # few clips: smaller batches, or there are too few steps
    patience = common.Patience(PATIENCE)
    step = 0
    for _ in range(EPOCHS):
        for rows in np.array_split(generator.permutation(len(x)), batches):
            step += 1
            kept_in = (generator.random((len(rows), x.shape[1])) > 0.3).astype(np.float32) / np.float32(0.7)
            kept = (generator.random((len(rows), HIDDEN)) > 0.3).astype(np.float32) / np.float32(0.7)
            seen = x[rows] * kept_in
            before = seen @ values[0] + values[1]
            hidden = np.maximum(before, 0) * kept
            error = softmax(hidden @ values[2] + values[3])
            error[np.arange(len(rows)), label[rows]] -= 1
            error *= (weight[label[rows]] / weight[label[rows]].sum())[:, None]
            back = (error @ values[2].T) * kept * (before > 0)
            slopes = [seen.T @ back, back.sum(0), hidden.T @ error, error.sum(0)]
            rate = _rate(step / (EPOCHS * batches))
            for i, slope in enumerate(slopes):
                first[i] += 0.1 * (slope - first[i])
                second[i] += 0.001 * (slope**2 - second[i])
                ahead = first[i] / (1 - 0.9**step) / (np.sqrt(second[i] / (1 - 0.999**step)) + 1e-8)
                values[i] = (values[i] * (1 - rate * 0.01) - rate * ahead).astype(np.float32)
        net = Net(*values)
        if held is not None and patience.lost(losses(_forward(net, held[0])[1], held[1], weight), net):
            break
    return (patience.best, patience.round, patience.loss) if held is not None else (net, EPOCHS, 0.0)


def _rate(done: float, highest: float = 3e-3) -> float:
    """Learning rate after a share of the steps: up over the first 30 %, down to nothing, along cosines."""
    phase = (done / 0.3 - 1) if done < 0.3 else (done - 0.3) / 0.7
    return float(highest * (0.04 + 0.96 * (1 + np.cos(np.pi * phase)) / 2))


def best_temperature(logits: Array, label: Rows, classes: int) -> float:
    """The temperature under which (n, classes) logits give the true labels the highest likelihood."""
    weight = balance(label, classes)
    candidates = np.arange(0.5, 4.01, 0.02)
    return round(float(candidates[int(np.argmin([losses(logits / t, label, weight) for t in candidates]))]), 2)


def require_onnx() -> None:
    """Raises CalltideError without the package that writes a head."""
    if importlib.util.find_spec("onnx") is None:
        raise CalltideError("training needs the package onnx; pip install 'calltide[train]'")


def export(head: Head, name: str, facts: dict[str, Any] | None = None) -> bytes:
    """The head as an ONNX file: `states` (6, positions, 384) → `probabilities` (1, classes), labels in its metadata.

    The averaged nets become one: their hidden layers beside each other. Raises CalltideError without the package onnx.
    """
    require_onnx()
    import onnx
    from onnx import TensorProto, helper, numpy_helper

    nets = head.nets
    constants: dict[str, NDArray[Any]] = {
        "first": np.array([LAYERS.start], np.int64),
        "last": np.array([LAYERS.stop], np.int64),
        "row": np.array([1, -1], np.int64),
        "mean": head.mean,
        "directions": head.directions,
        "inner": np.concatenate([net.inner for net in nets], 1),
        "inner_bias": np.concatenate([net.inner_bias for net in nets]),
        "outer": np.concatenate([net.outer for net in nets]) / np.float32(len(nets) * head.temperature),
        "outer_bias": np.mean([net.outer_bias for net in nets], axis=0) / np.float32(head.temperature),
    }
    steps: list[tuple[str, list[str], str, dict[str, Any]]] = [
        ("Slice", ["states", "first", "last"], "used", {}),
        ("ReduceMean", ["used"], "average", {"axes": [1], "keepdims": 1}),
        ("Sub", ["used", "average"], "apart", {}),
        ("Mul", ["apart", "apart"], "squared", {}),
        ("ReduceMean", ["squared"], "variance", {"axes": [1], "keepdims": 1}),
        ("Sqrt", ["variance"], "spread", {}),
        ("Concat", ["average", "spread"], "both", {"axis": 2}),
        ("Reshape", ["both", "row"], "statistics", {}),
        ("Sub", ["statistics", "mean"], "centred", {}),
        ("MatMul", ["centred", "directions"], "reduced", {}),
        ("Gemm", ["reduced", "inner", "inner_bias"], "before", {}),
        ("Relu", ["before"], "hidden", {}),
        ("Gemm", ["hidden", "outer", "outer_bias"], "logits", {}),
        ("Softmax", ["logits"], "probabilities", {"axis": 1}),
    ]
    graph = helper.make_graph(
        [helper.make_node(kind, taken, [made], **options) for kind, taken, made, options in steps],
        "emotion",
        [helper.make_tensor_value_info("states", TensorProto.FLOAT, [6, "positions", 384])],
        [helper.make_tensor_value_info("probabilities", TensorProto.FLOAT, [1, len(head.classes)])],
        [numpy_helper.from_array(np.ascontiguousarray(value), key) for key, value in constants.items()],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
    helper.set_model_props(model, {"id": name, "labels": json.dumps(head.classes), **(facts or {})})
    onnx.checker.check_model(model)
    content: bytes = model.SerializeToString()
    return content


def train_emotion(data: Path, out: Path, *, name: str = "", seed: int = 0, say: Callable[[str], None] = print) -> None:
    """Train a head on the clips in `data` and write it, with its card, into the directory `out`.

    The part of the speakers called test is heard once, at the end. Raises CalltideError for what cannot be trained on.
    """
    require_onnx()
    common.require_empty(out)
    clips = read_clips(data)
    emotions = [clip.emotion for clip in clips]
    common.require_enough(emotions, "clips")
    classes = tuple(known for known in CLASSES if known in set(emotions))
    label = np.array([classes.index(emotion) for emotion in emotions], np.intp)
    parts = common.split(emotions, [clip.speaker for clip in clips], group="speaker", item="clip", seed=seed)
    if parts.by == "clip":
        why = "too few speakers" if all(clip.speaker for clip in clips) else "speakers are not known of all clips"
        say(f"{why}: clips are split one by one, and the figures flatter (docs/emotion.md)")
    if missing := set(classes) - {emotions[row] for row in parts.train}:
        raise CalltideError(f"no clip of {', '.join(sorted(missing))} is left to train on; give clips of more speakers")

    x = features([partial(load, clip.file) for clip in clips], WhisperEncoder())
    plain = x[:, : len(BANDS)]
    head = fit(classes, x[parts.train], label[parts.train], (plain[parts.validation], label[parts.validation]), say)
    seen = plain[parts.validation].reshape(-1, x.shape[2])
    temperature = best_temperature(head.logits(seen), np.repeat(label[parts.validation], len(BANDS)), len(classes))
    head = replace(head, temperature=temperature)

    held_out = {
        band: common.report(classes, label[parts.test], head.logits(plain[parts.test, number]).argmax(1))
        for number, band in enumerate(BANDS)
    }
    out.mkdir(parents=True, exist_ok=True)
    identity = name or f"custom-{out.absolute().name}"
    (out / HEAD).write_bytes(export(head, identity))
    compare(out / HEAD, head)
    sizes = {part: len(getattr(parts, part)) for part in common.SHARES}
    common.write_card(
        out,
        common.Card(
            id=identity,
            title=f"Emotion from the voice: {identity}",
            setting="CALLTIDE_EMOTION__MODEL",
            trained_on={
                "clips": dict(Counter(emotions)),
                "speakers": len({clip.speaker for clip in clips if clip.speaker}) or "not known",
                "split": f"by {parts.by}: " + ", ".join(f"{part} {count}" for part, count in sizes.items()),
            },
            method={
                "features": "mean and spread over time of whisper-tiny.en's encoder states",
                "head": f"{NETS} nets of {HIDDEN} on {head.directions.shape[1]} principal directions",
                "augmentation": "G.711, noise, speed, cuts",
                "temperature": temperature,
                "seed": seed,
            },
            held_out=held_out,
            limits=LIMITS,
        ),
    )
    for line in common.table(held_out):
        say(line)
    say(f"written to {out}; use it with CALLTIDE_EMOTION__MODEL={out.absolute()}")


def compare(file: Path, head: Head, largest: float = 1e-3) -> None:
    """Raises CalltideError when the file's probabilities are further than `largest` from those of the trained head."""
    noise = np.random.default_rng(0).normal(0, 0.05, 2 * RATE).astype(np.float32)
    shares = softmax(head.logits(pooled(WhisperEncoder().states(noise))[None]) / np.float32(head.temperature))
    wanted = shares @ onto_six(head.classes, {})
    # Through the class that the stage uses, which also shows that it accepts the file.
    found = WhisperStatsEmotion(file).predict([noise])
    if (worst := float(np.abs(found - wanted / wanted.sum()).max())) > largest:
        raise CalltideError(f"{file} computes other probabilities than the trained head (by {worst:.1e}); report this")
