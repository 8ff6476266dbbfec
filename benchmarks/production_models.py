"""What the production models cost on a CPU: `python -m benchmarks.production_models` (needs the extra torch).

Their published weights are not at hand, so networks of their exact sizes are made with random weights, saved, and
loaded as users load them: the arithmetic, and so the time, is the same. A changer must know: no answer that these
networks give means anything.
"""

import resource
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from importlib.util import find_spec
from pathlib import Path
from statistics import median
from typing import Any

import numpy as np

REPEATS = 7
SPEECH_S = 3
WORDS = "well i have been waiting for forty minutes and nobody could tell me anything"

ECAPA_YAML = """
pretrained_path: speechbrain/spkrec-ecapa-voxceleb
compute_features: !new:speechbrain.lobes.features.Fbank
    n_mels: 80
mean_var_norm: !new:speechbrain.processing.features.InputNormalization
    norm_type: sentence
    std_norm: False
embedding_model: !new:speechbrain.lobes.models.ECAPA_TDNN.ECAPA_TDNN
    input_size: 80
    channels: [1024, 1024, 1024, 1024, 3072]
    kernel_sizes: [5, 3, 3, 3, 1]
    dilations: [1, 2, 3, 4, 1]
    attention_channels: 128
    lin_neurons: 192
classifier: !new:speechbrain.lobes.models.ECAPA_TDNN.Classifier
    input_size: 192
    out_neurons: 7205
modules:
    compute_features: !ref <compute_features>
    mean_var_norm: !ref <mean_var_norm>
    embedding_model: !ref <embedding_model>
    classifier: !ref <classifier>
pretrainer: !new:speechbrain.utils.parameter_transfer.Pretrainer
    loadables:
        embedding_model: !ref <embedding_model>
    paths:
        embedding_model: !ref <pretrained_path>/embedding_model.ckpt
"""


def speech() -> Any:
    return (0.1 * np.random.default_rng(1).standard_normal(SPEECH_S * 16_000)).astype(np.float32)


def hubert_base(folder: Path) -> Callable[[], Any]:
    import transformers

    from processors.models.hub import load_emotion

    labels = dict(enumerate(("neu", "hap", "ang", "sad")))
    config = transformers.HubertConfig(id2label=labels, label2id={name: i for i, name in labels.items()})
    transformers.HubertForSequenceClassification(config).save_pretrained(folder)
    transformers.Wav2Vec2FeatureExtractor().save_pretrained(folder)
    model = load_emotion(str(folder), "cpu")
    return lambda: model.predict([speech()])


def roberta_base(folder: Path) -> Callable[[], Any]:
    import transformers
    from tokenizers import ByteLevelBPETokenizer

    from processors.models.hub import load_sentiment

    tokenizer = ByteLevelBPETokenizer()
    tokenizer.train_from_iterator([WORDS], special_tokens=["<s>", "<pad>", "</s>", "<unk>"], show_progress=False)
    tokenizer.save_model(str(folder))
    labels = dict(enumerate(("negative", "neutral", "positive")))
    config = transformers.RobertaConfig(
        id2label=labels, label2id={name: i for i, name in labels.items()}, vocab_size=50_265,
        max_position_embeddings=514, type_vocab_size=1,
    )  # fmt: skip
    transformers.RobertaForSequenceClassification(config).save_pretrained(folder)
    model = load_sentiment(str(folder), "cpu")
    return lambda: model.score([WORDS])


def ecapa(folder: Path) -> Callable[[], Any]:
    import torch
    from speechbrain.lobes.models.ECAPA_TDNN import ECAPA_TDNN

    from processors.models.speechbrain_models import load_embedder

    (folder / "hyperparams.yaml").write_text(ECAPA_YAML)
    net = ECAPA_TDNN(80, lin_neurons=192, channels=[1024, 1024, 1024, 1024, 3072])
    torch.save(net.state_dict(), folder / "embedding_model.ckpt")
    model = load_embedder(str(folder), "cpu")
    return lambda: model.embed([speech()])


MODELS = {
    "HuBERT base, 95 M (superb/hubert-base-superb-er)": (hubert_base, f"{SPEECH_S} s of speech"),
    "RoBERTa base, 125 M (cardiffnlp/twitter-roberta-base-sentiment-latest)": (
        roberta_base,
        f"{len(WORDS.split())} words",
    ),
    "ECAPA-TDNN (speechbrain/spkrec-ecapa-voxceleb)": (ecapa, f"{SPEECH_S} s of speech"),
}


def measure(name: str) -> None:
    """In a process of its own, so that memory is one model's."""
    import torch

    torch.set_num_threads(1)
    make, unit = MODELS[name]
    with tempfile.TemporaryDirectory() as folder:
        step = make(Path(folder))
        step()
        spent = []
        for _ in range(REPEATS):
            begun = time.process_time()
            step()
            spent.append(time.process_time() - begun)
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024**2
    print(f"| {name} | {unit} | {median(spent) * 1000:.0f} ms | {peak:.1f} GiB |", flush=True)


def main() -> None:
    if missing := [name for name in ("torch", "transformers", "speechbrain") if not find_spec(name)]:
        sys.exit(f"production_models needs {', '.join(missing)}; run pip install 'calltide[torch]'")
    print("| network | input | CPU, one thread | largest memory, making it included |\n|---|---|---|---|", flush=True)
    for name in MODELS:
        subprocess.run([sys.executable, "-m", "benchmarks.production_models", name], check=True)


if __name__ == "__main__":
    measure(sys.argv[1]) if len(sys.argv) > 1 else main()
