"""What a window of 32 ms costs in the VAD model, by sample rate and number of channels in one call, and whether the
bits stay the same: `python -m benchmarks.vad`. The table stands in processors/models/silero.py."""

import time

import numpy as np

from processors.models.silero import CONTEXT, STATE, WINDOW, SileroVad

SIZES = (1, 2, 4, 8, 16, 32, 64)
CALLS, ROUNDS = 20, 20


def main() -> None:
    """Print CPU milliseconds a window for every size (the best round), and how many rows differ from a row alone."""
    model = SileroVad()
    numbers = np.random.default_rng(1)
    for rate in WINDOW:
        windows = numbers.normal(0, 0.1, (max(SIZES), WINDOW[rate])).astype(np.float32)
        states = numbers.normal(0, 0.5, (max(SIZES), *STATE)).astype(np.float32)
        contexts = numbers.normal(0, 0.1, (max(SIZES), CONTEXT[rate])).astype(np.float32)
        alone = [
            model._run(rate, windows[i : i + 1], states[i : i + 1], contexts[i : i + 1]) for i in range(max(SIZES))
        ]
        for size in SIZES:
            costs = []
            for _ in range(ROUNDS):
                started = time.process_time()
                for _ in range(CALLS):
                    probabilities, new_states = model._run(rate, windows[:size], states[:size], contexts[:size])
                costs.append((time.process_time() - started) * 1000 / CALLS / size)
            differ = sum(
                probabilities[i] != alone[i][0][0] or not np.array_equal(new_states[i], alone[i][1][0])
                for i in range(size)
            )
            print(f"{rate} Hz, {size:2} channels: {min(costs):.3f} ms a window, {differ} rows differ")


if __name__ == "__main__":
    main()
