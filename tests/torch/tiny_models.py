"""Tiny models of the real architectures with random weights, saved as their authors save them.

A changer must know: it imports torch, so only fixtures and tests that have skipped without it may import it.
"""

from collections.abc import Sequence
from functools import cached_property
from pathlib import Path
from typing import Any

import torch
import transformers
from tokenizers import ByteLevelBPETokenizer

IEMOCAP = ("neu", "hap", "ang", "sad")
SEVEN = ("angry", "disgust", "fearful", "happy", "neutral", "sad", "surprised")
TEXTS = (
    "thank you so much that is great",
    "I want to speak to a manager",
    "this is the worst service",
    "my order number is forty two",
)

CONVOLUTIONS = {
    "hidden_size": 32,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "intermediate_size": 64,
    "conv_dim": (16, 16, 16),
    "conv_stride": (5, 4, 4),
    "conv_kernel": (10, 8, 4),
    "num_conv_pos_embeddings": 16,
    "num_conv_pos_embedding_groups": 2,
    "classifier_proj_size": 16,
}


def named(labels: Sequence[str]) -> dict[str, Any]:
    return {"id2label": dict(enumerate(labels)), "label2id": {label: i for i, label in enumerate(labels)}}


def save(folder: Path, model: Any, *parts: Any) -> Path:
    """With weights large enough that two inputs get clearly different answers."""
    with torch.no_grad():
        for name, weight in model.named_parameters():
            if name.startswith(("classifier", "projector")):
                weight.copy_(torch.randn(weight.shape))
    for part in (model, *parts):
        part.save_pretrained(folder)
    return folder


def old_names(weights: dict[str, Any]) -> dict[str, Any]:
    """A state as torch named its parts before 2.0."""
    parts = {"parametrizations.weight.original0": "weight_g", "parametrizations.weight.original1": "weight_v"}
    renamed = {}
    for name, weight in weights.items():
        for new, old in parts.items():
            name = name.replace(new, old)
        renamed[name] = weight
    return renamed


class Tiny:
    """Directories with models, each built when it is first asked for."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def waves(self, name: str, kind: str, labels: Sequence[str] = IEMOCAP, *, masked: bool = False) -> Path:
        """wav2vec2 or HuBERT: masked as the large ones (layer norm, attention mask), or as the base ones."""
        torch.manual_seed(1)
        config_class, model_class = {
            "wav2vec2": (transformers.Wav2Vec2Config, transformers.Wav2Vec2ForSequenceClassification),
            "hubert": (transformers.HubertConfig, transformers.HubertForSequenceClassification),
        }[kind]
        norm = {"feat_extract_norm": "layer", "do_stable_layer_norm": True} if masked else {}
        config = config_class(**CONVOLUTIONS, **norm, **named(labels))
        extractor = transformers.Wav2Vec2FeatureExtractor(do_normalize=True, return_attention_mask=masked)
        return save(self.folder / name, model_class(config), extractor)

    @cached_property
    def wav2vec2(self) -> Path:
        return self.waves("wav2vec2", "wav2vec2")

    @cached_property
    def wav2vec2_masked(self) -> Path:
        return self.waves("wav2vec2-masked", "wav2vec2", masked=True)

    @cached_property
    def hubert(self) -> Path:
        return self.waves("hubert", "hubert")

    @cached_property
    def whisper(self) -> Path:
        """As firdhokk/speech-emotion-recognition-with-openai-whisper-large-v3, with its seven classes."""
        torch.manual_seed(2)
        config = transformers.WhisperConfig(
            d_model=32,
            encoder_layers=2,
            encoder_attention_heads=2,
            encoder_ffn_dim=64,
            decoder_layers=1,
            decoder_attention_heads=2,
            decoder_ffn_dim=64,
            vocab_size=64,
            num_mel_bins=16,
            classifier_proj_size=16,
            pad_token_id=0,
            bos_token_id=1,
            eos_token_id=2,
            decoder_start_token_id=1,
            **named(SEVEN),
        )
        extractor = transformers.WhisperFeatureExtractor(feature_size=16)
        return save(self.folder / "whisper", transformers.WhisperForAudioClassification(config), extractor)

    def roberta_with(self, labels: Sequence[str], name: str) -> Path:
        """As cardiffnlp/twitter-roberta-base-sentiment-latest: vocab.json and merges.txt beside the weights."""
        torch.manual_seed(3)
        folder = self.folder / name
        folder.mkdir()
        tokenizer = ByteLevelBPETokenizer()
        specials = ["<s>", "<pad>", "</s>", "<unk>", "<mask>"]
        tokenizer.train_from_iterator(TEXTS, vocab_size=400, special_tokens=specials, show_progress=False)
        tokenizer.save_model(str(folder))
        config = transformers.RobertaConfig(
            vocab_size=400,
            hidden_size=32,
            num_hidden_layers=2,
            num_attention_heads=2,
            intermediate_size=64,
            max_position_embeddings=140,
            type_vocab_size=1,
            initializer_range=0.3,  # so that two texts get clearly different answers
            **named(labels),
        )
        transformers.RobertaForSequenceClassification(config).save_pretrained(folder)
        return folder

    @cached_property
    def roberta(self) -> Path:
        return self.roberta_with(("negative", "neutral", "positive"), "roberta")
