"""What waits for one connection that wants its call's results."""

import asyncio
from collections.abc import Sequence
from typing import Any

from prometheus_client import REGISTRY

from schemas.events import CallEvent, Progress
from streams.ingestion.results import QUEUE, Results
from streams.settings import Settings
from tests.unit.stage_records import call, interim, marks

INFO = call()


def skipped() -> float:
    return REGISTRY.get_sample_value("calltide_ingest_interim_skipped_total") or 0.0


def taken(offered: Sequence[CallEvent]) -> list[Any]:
    """What a connection takes that was away while all of it was offered; None: it is told that no more comes."""

    async def test() -> list[Any]:
        reader = Results(Settings())
        listens = asyncio.Event()
        taking = reader.results(INFO.call_id, listens.set)
        first = asyncio.ensure_future(anext(taking))
        await listens.wait()
        for event in offered:
            reader._offer(INFO.call_id, event)
        found: list[Any] = [await first]
        try:
            async with asyncio.timeout(0.1):
                while True:
                    found.append(await anext(taking))
        except StopAsyncIteration:
            found.append(None)
        except TimeoutError:
            pass
        return found

    return asyncio.run(test())


def test_a_slow_client_misses_all_interim_words_but_the_newest_of_each_channel() -> None:
    before = skipped()
    progress = [Progress(call=INFO, at_ms=at_ms) for at_ms in range(QUEUE)]
    spoken = [
        interim(INFO, 0, length_ms, "Well", channel=channel) for length_ms in (300, 600, 900) for channel in (0, 1)
    ]
    assert taken([progress[0], *spoken, *progress[1:]]) == [*progress, *spoken[-2:]]
    assert skipped() - before == 4


def test_interim_words_do_not_cut_anybody_off() -> None:
    spoken = [interim(INFO, 0, length_ms) for length_ms in range(100, 100 * (3 * QUEUE), 100)]
    assert taken(spoken) == [spoken[-1]]


def test_who_does_not_take_what_is_finished_is_told_the_end() -> None:
    progress = [Progress(call=INFO, at_ms=at_ms) for at_ms in range(QUEUE + 1)]
    assert taken(progress) == [*progress[:QUEUE], None]


def test_the_call_s_end_is_the_end() -> None:
    started, _, ended = marks(INFO)
    assert taken([started, interim(INFO, 0, 300), ended]) == [started, ended, None]
