"""How far apart CAM++ holds voices, by length of speech and band: the figures in processors/models/speaker.py.

    python -m training.evaluate_speaker

Two-party calls made of LibriSpeech test-other (`calls/made`): every pair of utterances of at least 4 s, middles cut
to one length. Few speakers, and one recording session each: real calls are harder.
"""

import argparse
import json
import os
import time
from pathlib import Path

import numpy as np
import soundfile
from numpy.typing import NDArray

from processors.audio import decode, encode, resample
from processors.models.speaker import RATE, CamPlusPlus

Audio = NDArray[np.float32]


def telephone(samples: Audio) -> Audio:
    """The same at 16 kHz after a way over a telephone line: 8 kHz, G.711 mu-law."""
    return resample(decode(encode(resample(samples, RATE, 8000), "mulaw"), "mulaw"), 8000, RATE)


def utterances(folder: Path) -> list[tuple[str, Audio]]:
    """Speaker and samples of every turn of at least 4 s."""
    found: list[tuple[str, Audio]] = []
    for script in sorted(folder.glob("*.json")):
        samples, _ = soundfile.read(script.with_suffix(".flac"), dtype="float32")
        found.extend(
            (turn["speaker"], samples[int(turn["start"] * RATE) : int(turn["end"] * RATE)])
            for turn in json.loads(script.read_text())
            if turn["end"] - turn["start"] >= 4
        )
    return found


def equal_error_rate(same: Audio, other: Audio) -> tuple[float, float]:
    """Rate and threshold at which as many same-speaker pairs are refused as other pairs are accepted."""
    thresholds = np.linspace(-0.2, 1, 601)
    refused = np.array([(same < t).mean() for t in thresholds])
    accepted = np.array([(other >= t).mean() for t in thresholds])
    at = int(np.argmin(np.abs(refused - accepted)))
    return float(refused[at] + accepted[at]) / 2, float(thresholds[at])


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    data = Path(os.environ.get("CALLTIDE_TEST_DATA", "../shared/data"))
    parser.add_argument("--calls", type=Path, default=data / "calls" / "made")
    arguments = parser.parse_args()
    model = CamPlusPlus()
    found = utterances(arguments.calls)
    speakers = np.array([speaker for speaker, _ in found])
    pairs = np.triu_indices(len(found), 1)
    same = (speakers[:, None] == speakers)[pairs]
    print(f"{len(found)} utterances, {len(set(speakers))} speakers, {same.sum()} same and {(~same).sum()} other pairs")
    print("band   length  same  other  equal error rate  threshold  CPU ms")
    for band, through in (("wide", lambda samples: samples), ("phone", telephone)):
        for seconds in (0.3, 0.5, 1, 2, 3, 4, 6):
            length = int(seconds * RATE)
            pieces = [through(s[max(0, (len(s) - length) // 2) :][:length]) for _, s in found]
            started = time.process_time()
            embeddings = model.embed(pieces)
            cpu_ms = (time.process_time() - started) / len(pieces) * 1000
            cosine = (embeddings @ embeddings.T)[pairs]
            rate, threshold = equal_error_rate(cosine[same], cosine[~same])
            print(
                f"{band:6s} {seconds:4.1f} s {cosine[same].mean():6.2f} {cosine[~same].mean():6.2f}"
                f" {rate:15.1%} {threshold:11.2f} {cpu_ms:8.0f}"
            )


if __name__ == "__main__":
    main()
