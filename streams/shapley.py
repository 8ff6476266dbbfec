"""Shapley values by the package shap (KernelExplainer: Lundberg & Lee 2017), which is in the extra `explain`.

Every set of parts is asked about where they are few enough: then the values are exact; else sets are drawn.

A changer must know: shap draws them from numpy's one global generator. So one game is played at a time, from one seed,
and what others had drawn from the generator before is put back. shap's other algorithms compile themselves for ten
seconds when they are first used; this one does not.
"""

import importlib.util
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from typing import Final

import numpy as np

from processors.explanation import Game, Masks, Values
from schemas.errors import CalltideError

SEED: Final = 1
THREADS: Final = 2
_one_at_a_time = threading.Lock()


def require_shap() -> None:
    """Raises CalltideError when shap is not installed."""
    if importlib.util.find_spec("shap") is None:
        raise CalltideError(
            "explanations need shap, which is not installed; run `.venv/bin/pip install -e '.[explain]'`"
        )


def shapley(game: Game, parts: int, questions: int) -> Values:
    """See processors.explanation.Shapley. The game is asked from THREADS threads at once."""
    import shap

    with _drawn_from_one_seed(), ThreadPoolExecutor(THREADS) as pool:

        def asked(rows: Values) -> Values:
            masks: Masks = rows.astype(np.bool_)
            # The largest sets first, so that no thread begins with one when the other is done; and texts of as many
            # tokens come together, which the network reads at once.
            order = np.argsort(-masks.sum(1), kind="stable")
            pieces = np.array_split(masks[order], min(len(masks), 8 * THREADS))
            answers = np.concatenate([*pool.map(game, pieces)])
            return answers[np.argsort(order)]

        explainer = shap.KernelExplainer(asked, np.zeros((1, parts)))
        values = explainer.shap_values(np.ones((1, parts)), nsamples=questions, l1_reg=False, silent=True)
    return np.asarray(values, np.float64).reshape(parts, -1)


@contextmanager
def _drawn_from_one_seed() -> Iterator[None]:
    with _one_at_a_time:
        before = np.random.get_state()
        np.random.seed(SEED)
        try:
            yield
        finally:
            np.random.set_state(before)
