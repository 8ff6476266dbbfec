"""SpeechBrain's own loaders on directories that are laid out as its published models are."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from processors.models.emotion import EMOTIONS
from processors.models.hub import load_emotion
from processors.models.speechbrain_models import is_speechbrain, load_embedder
from schemas.errors import CalltideError

pytestmark = pytest.mark.usefixtures("speechbrain")

Voices = list[NDArray[np.float32]]

# As the hub's spkrec-ecapa-voxceleb, with fewer channels and speakers.
ECAPA_YAML = """
n_mels: 80
pretrained_path: speechbrain/spkrec-ecapa-voxceleb
out_n_neurons: 5
compute_features: !new:speechbrain.lobes.features.Fbank
    n_mels: !ref <n_mels>
mean_var_norm: !new:speechbrain.processing.features.InputNormalization
    norm_type: sentence
    std_norm: False
embedding_model: !new:speechbrain.lobes.models.ECAPA_TDNN.ECAPA_TDNN
    input_size: !ref <n_mels>
    channels: [16, 16, 16, 16, 48]
    kernel_sizes: [5, 3, 3, 3, 1]
    dilations: [1, 2, 3, 4, 1]
    attention_channels: 8
    lin_neurons: 24
classifier: !new:speechbrain.lobes.models.ECAPA_TDNN.Classifier
    input_size: 24
    out_neurons: !ref <out_n_neurons>
mean_var_norm_emb: !new:speechbrain.processing.features.InputNormalization
    norm_type: global
    std_norm: False
modules:
    compute_features: !ref <compute_features>
    mean_var_norm: !ref <mean_var_norm>
    embedding_model: !ref <embedding_model>
    mean_var_norm_emb: !ref <mean_var_norm_emb>
    classifier: !ref <classifier>
label_encoder: !new:speechbrain.dataio.encoder.CategoricalEncoder
pretrainer: !new:speechbrain.utils.parameter_transfer.Pretrainer
    loadables:
        embedding_model: !ref <embedding_model>
        mean_var_norm_emb: !ref <mean_var_norm_emb>
        classifier: !ref <classifier>
        label_encoder: !ref <label_encoder>
    paths:
        embedding_model: !ref <pretrained_path>/embedding_model.ckpt
        mean_var_norm_emb: !ref <pretrained_path>/mean_var_norm_emb.ckpt
        classifier: !ref <pretrained_path>/classifier.ckpt
        label_encoder: !ref <pretrained_path>/label_encoder.txt
"""

# As the hub's emotion-recognition-wav2vec2-IEMOCAP, on a smaller wav2vec2.
EMOTION_YAML = """
wav2vec2_hub: facebook/wav2vec2-base
pretrained_path: speechbrain/emotion-recognition-wav2vec2-IEMOCAP
encoder_dim: 32
out_n_neurons: 4
wav2vec2: !new:speechbrain.lobes.models.huggingface_transformers.wav2vec2.Wav2Vec2
    source: !ref <wav2vec2_hub>
    output_norm: True
    freeze: True
    save_path: wav2vec2_checkpoints
avg_pool: !new:speechbrain.nnet.pooling.StatisticsPooling
    return_std: False
output_mlp: !new:speechbrain.nnet.linear.Linear
    input_size: !ref <encoder_dim>
    n_neurons: !ref <out_n_neurons>
    bias: False
model: !new:torch.nn.ModuleList
    - [!ref <output_mlp>]
modules:
    wav2vec2: !ref <wav2vec2>
    output_mlp: !ref <output_mlp>
    avg_pool: !ref <avg_pool>
softmax: !new:speechbrain.nnet.activations.Softmax
label_encoder: !new:speechbrain.dataio.encoder.CategoricalEncoder
pretrainer: !new:speechbrain.utils.parameter_transfer.Pretrainer
    loadables:
        wav2vec2: !ref <wav2vec2>
        model: !ref <model>
        label_encoder: !ref <label_encoder>
    paths:
        wav2vec2: !ref <pretrained_path>/wav2vec2.ckpt
        model: !ref <pretrained_path>/model.ckpt
        label_encoder: !ref <pretrained_path>/label_encoder.txt
"""

# The published file has this class; its methods are written anew here from its description.
INTERFACE = """
import torch
from speechbrain.inference.interfaces import Pretrained


class CustomEncoderWav2vec2Classifier(Pretrained):
    def encode_batch(self, wavs, wav_lens=None, normalize=False):
        if wav_lens is None:
            wav_lens = torch.ones(wavs.shape[0], device=self.device)
        features = self.mods.wav2vec2(wavs.to(self.device).float())
        pooled = self.mods.avg_pool(features, wav_lens)
        return pooled.view(pooled.shape[0], -1)

    def classify_batch(self, wavs, wav_lens=None):
        shares = self.hparams.softmax(self.mods.output_mlp(self.encode_batch(wavs, wav_lens)))
        score, index = torch.max(shares, dim=-1)
        return shares, score, index, self.hparams.label_encoder.decode_torch(index)
"""


def write_labels(path: Path, labels: tuple[str, ...]) -> None:
    from speechbrain.dataio.encoder import CategoricalEncoder

    encoder = CategoricalEncoder()
    for label in labels:
        encoder.add_label(label)
    encoder.save(path)


@pytest.fixture(scope="module")
def ecapa(speechbrain: None, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Any]:
    """A directory, and the network whose weights are in it."""
    import torch
    from speechbrain.lobes.models.ECAPA_TDNN import ECAPA_TDNN, Classifier
    from speechbrain.processing.features import InputNormalization

    torch.manual_seed(4)
    folder = tmp_path_factory.mktemp("ecapa")
    net = ECAPA_TDNN(
        80, channels=[16, 16, 16, 16, 48], kernel_sizes=[5, 3, 3, 3, 1], dilations=[1, 2, 3, 4, 1],
        attention_channels=8, lin_neurons=24,
    )  # fmt: skip
    (folder / "hyperparams.yaml").write_text(ECAPA_YAML)
    torch.save(net.state_dict(), folder / "embedding_model.ckpt")
    torch.save(Classifier(24, out_neurons=5).state_dict(), folder / "classifier.ckpt")
    InputNormalization(norm_type="global", std_norm=False)._save(folder / "mean_var_norm_emb.ckpt")
    write_labels(folder / "label_encoder.txt", ("a", "b", "c", "d", "e"))
    return folder, net.eval()


@pytest.fixture(scope="module")
def iemocap(speechbrain: None, tiny: Any, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Any, Any]:
    """A directory with its wav2vec2-base beside it, and the two networks whose weights are in it."""
    import torch
    import transformers

    from tests.torch.tiny_models import CONVOLUTIONS, old_names

    torch.manual_seed(5)
    folder = tmp_path_factory.mktemp("iemocap")
    config = transformers.Wav2Vec2Config(**CONVOLUTIONS)
    extractor = transformers.Wav2Vec2FeatureExtractor(do_normalize=True, return_attention_mask=False)
    base, tuned = transformers.Wav2Vec2Model(config), transformers.Wav2Vec2Model(config)
    for part in (base, extractor):
        part.save_pretrained(folder / "wav2vec2-base")
    head = torch.nn.Linear(32, 4, bias=False)
    (folder / "hyperparams.yaml").write_text(EMOTION_YAML)
    (folder / "custom_interface.py").write_text(INTERFACE)
    weights = {f"model.{name}": value for name, value in old_names(tuned.state_dict()).items()}
    torch.save(weights, folder / "wav2vec2.ckpt")
    torch.save({"0.w.weight": head.weight}, folder / "model.ckpt")
    write_labels(folder / "label_encoder.txt", ("neu", "ang", "hap", "sad"))
    return folder, tuned.eval(), head


def test_an_embedding_is_that_of_the_network(ecapa: tuple[Path, Any], voices: Voices) -> None:
    import torch
    from speechbrain.lobes.features import Fbank

    folder, net = ecapa
    embedder = load_embedder(str(folder), "cpu")
    rows = embedder.embed(voices)
    assert (embedder.id, embedder.dim, rows.shape, rows.dtype) == (folder.name, 24, (len(voices), 24), np.float32)
    np.testing.assert_allclose(np.linalg.norm(rows, axis=1), 1, atol=1e-6)
    for row, samples in zip(rows, voices, strict=True):
        with torch.no_grad():
            features = Fbank(n_mels=80)(torch.from_numpy(samples[None]))
            expected = net(features - features.mean(1, keepdim=True)).numpy().reshape(-1)
        np.testing.assert_allclose(row, expected / np.linalg.norm(expected), atol=1e-5)
    assert np.abs(rows[0] - rows[1]).max() > 1e-3


def test_a_neighbour_changes_no_bit_of_an_embedding(ecapa: tuple[Path, Any], voices: Voices) -> None:
    embedder = load_embedder(str(ecapa[0]), "cpu")
    alone = np.concatenate([embedder.embed([samples]) for samples in voices])
    assert embedder.embed(voices).tobytes() == alone.tobytes()
    assert embedder.embed([]).shape == (0, 24)


def test_a_short_stretch_has_an_embedding_and_an_empty_one_has_none(ecapa: tuple[Path, Any], voices: Voices) -> None:
    embedder = load_embedder(str(ecapa[0]), "cpu")
    assert np.isfinite(embedder.embed([voices[0][:100]])).all()
    with pytest.raises(ValueError, match="empty"):
        embedder.embed([voices[0][:0]])


def test_speechbrain_emotion_is_that_of_the_tuned_network(iemocap: tuple[Path, Any, Any], voices: Voices) -> None:
    import torch
    import torch.nn.functional as F

    folder, tuned, head = iemocap
    model = load_emotion(str(folder), "cpu", 1)
    assert (model.id, model.labels) == (folder.name, EMOTIONS)
    rows = model.predict(voices)
    for row, samples in zip(rows, voices, strict=True):
        with torch.no_grad():
            wave = torch.from_numpy(samples[None])
            states = tuned(F.layer_norm(wave, wave.shape[1:])).last_hidden_state
            pooled = F.layer_norm(states, states.shape[1:]).mean(1)
            neutral, anger, happiness, sadness = F.softmax(head(pooled), -1)[0].tolist()
        np.testing.assert_allclose(row, [neutral, happiness, sadness, anger, 0, 0], atol=1e-4)
    assert np.abs(rows[0] - rows[1]).max() > 1e-4


def test_a_neighbour_changes_no_bit_of_speechbrain_emotion(iemocap: tuple[Path, Any, Any], voices: Voices) -> None:
    model = load_emotion(str(iemocap[0]), "cpu", 1)
    alone = np.concatenate([model.predict([samples]) for samples in voices])
    assert model.predict(voices).tobytes() == alone.tobytes()
    np.testing.assert_allclose(load_emotion(str(iemocap[0]), "cpu", 4).predict(voices), alone, atol=1e-5)


def test_speechbrain_runs_in_float32_only(iemocap: tuple[Path, Any, Any]) -> None:
    with pytest.raises(CalltideError, match="float32, not float16"):
        load_emotion(str(iemocap[0]), "cpu", 1, "float16")


def test_what_it_is_built_on_is_named_when_it_is_missing(
    iemocap: tuple[Path, Any, Any], tmp_path: Path, no_network: None
) -> None:
    for name in ("hyperparams.yaml", "custom_interface.py"):
        (tmp_path / name).write_bytes((iemocap[0] / name).read_bytes())
    with pytest.raises(CalltideError, match="`hf download facebook/wav2vec2-base --local-dir wav2vec2-base`"):
        load_emotion(str(tmp_path), "cpu", 1)


def test_a_file_that_is_missing_is_named(ecapa: tuple[Path, Any], tmp_path: Path) -> None:
    (tmp_path / "hyperparams.yaml").write_text(ECAPA_YAML)
    with pytest.raises(CalltideError, match=r"embedding_model\.ckpt.*check that the copy is whole"):
        load_embedder(str(tmp_path), "cpu")


def test_what_is_speechbrains(ecapa: tuple[Path, Any], tmp_path: Path) -> None:
    assert is_speechbrain("speechbrain/spkrec-ecapa-voxceleb")
    assert is_speechbrain(str(ecapa[0]))
    assert not is_speechbrain("superb/hubert-base-superb-er")
    assert not is_speechbrain(str(tmp_path))
