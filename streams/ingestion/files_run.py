"""`calltide ingest`: recordings from files, directories, globs, a manifest or a drop folder, each sent once.

A run looks at every file first, so that what cannot be a call is said at once, and never lets one file stop another.
A changer must know: a recording is known by its call id and by the sha256 of its bytes, which travels in the call's
metadata. What Kafka has acknowledged is kept in `<home>/ingest/sent.sqlite3`; what another machine sent is looked up in
ClickHouse. A run that died in the middle of a call sends it again under the same id: the stages pass over packets they
have, and rows of the same identity become one.
"""

import csv
import glob
import hashlib
import json
import logging
import os
import re
import sqlite3
import threading
import time
from collections import deque
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent import futures
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field, fields, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Final, Literal, TextIO

import av
import numpy as np
import psutil
from clickhouse_connect.driver.client import Client
from clickhouse_connect.driver.exceptions import ClickHouseError
from confluent_kafka import Consumer, TopicPartition

from schemas.errors import CalltideError
from schemas.events import CallEnded, CallInfo, Role, Score, decode
from schemas.topics import SCORES, Lane
from streams import kafka
from streams.files import AudioFile, open_audio
from streams.ingest import MAXIMUM_SPEED, Call, Ingest
from streams.packets import now, roles_for, roles_of
from streams.settings import Settings
from streams.sink import Unreachable, connect

log = logging.getLogger(__name__)

SUFFIXES: Final = (".wav", ".flac", ".mp3", ".m4a", ".mp4", ".ogg", ".oga", ".opus", ".webm")
"""What is taken from a directory; a file that is named is tried whatever its name."""
AT_ONCE: Final = 100
"""Judgement: each call that is being sent holds an open file and about 1 MB."""
AT_ONCE_UNPACED: Final = 8
"""Judgement: as fast as Kafka takes them, a few calls fill its queue, and each ends soon."""
SETTLED_S: Final = 2.0
"""Judgement: a file in a drop folder whose size and time have not changed for so long has been written."""
LOOK_S: Final = 0.5
"""How often a drop folder is looked at."""
SHOWN_S: Final = 0.1
"""How often progress is told."""
QUIET_S: Final = 60.0
"""Judgement: when nothing of the calls came out for so long, nobody hears them, and utterances stay uncounted."""
SILENCE_DBFS: Final = -60.0
"""Judgement: the noise of an idle telephone line lies at −70 to −60 dB of full scale, the quietest speech above −50."""
SHA256: Final = "sha256"
"""The key of a call's metadata that holds the recording's."""

NOT_ALL: Final = "Kafka did not take all of it; ingest it again"

Status = Literal["sent", "sent before", "damaged", "interrupted", "failed", "not begun"]
GOOD: Final[tuple[Status, ...]] = ("sent", "sent before")


@dataclass(frozen=True, slots=True)
class Source:
    """A file and what is said of its call. `call_id` None: made of its name and its bytes; `roles` None: by default."""

    path: Path
    call_id: str | None = None
    roles: tuple[Role, ...] | None = None
    tenant: str = "default"
    queue: str = ""
    agent: str = ""
    metadata: Mapping[str, str] = field(default_factory=dict)


@dataclass(slots=True)
class Outcome:
    """A row of the results."""

    path: str
    call_id: str = ""
    status: Status = "not begun"
    seconds: float = 0.0
    """Of audio that Kafka has."""
    utterances: int | None = None
    """None: not counted, or not all heard yet."""
    error: str = ""


@dataclass(frozen=True, slots=True)
class Check:
    """What `--dry-run` found in a file."""

    path: str
    call_id: str = ""
    format: str = ""
    seconds: float = 0.0
    channels: int = 0
    rate: int = 0
    """Samples a second in the file."""
    silent: tuple[float, ...] = ()
    """Share of each channel that is below SILENCE_DBFS."""
    warning: str = ""
    error: str = ""


def speed_of(text: str) -> float:
    """`max` or a number above 0. Raises CalltideError."""
    try:
        speed = MAXIMUM_SPEED if text == "max" else float(text)
    except ValueError:
        speed = 0.0
    if not speed > 0:
        raise CalltideError(f"--speed {text} is no speed; give a number above 0, or max")
    return speed


def gather(paths: Sequence[Path], manifest: Path | None, common: Source) -> list[Source]:
    """The files that are named: as such, by directories (all recordings in them, however deep), by globs, and by the
    rows of a manifest; each once, in that order, with what `common` says of all and a manifest's row of one.

    Raises CalltideError for a directory or a glob without recordings, and for a manifest that cannot be read.
    """
    found: dict[Path, Source] = {}
    for path in paths:
        for one in _expanded(path):
            found.setdefault(one, replace(common, path=one))
    rows = _rows(manifest, common) if manifest else []
    for row in rows:
        # The manifest knows more than a pattern that the file fits; a file of several calls is several rows.
        found.pop(row.path, None)
    named = [*found.values(), *rows]
    if common.call_id is not None and len(named) > 1:
        raise CalltideError("--call-id names one call; give one file")
    ids = [source.call_id for source in named if source.call_id]
    if double := next((one for one in ids if ids.count(one) > 1), None):
        raise CalltideError(f"call id {double} stands twice in {manifest}; a call has one recording")
    return named


def _expanded(path: Path) -> list[Path]:
    if path.is_dir():
        inside = sorted(one for one in path.rglob("*") if one.suffix.lower() in SUFFIXES and one.is_file())
        if not inside:
            raise CalltideError(f"no recordings in {path}; there must be files of {', '.join(SUFFIXES)}")
        return inside
    if not path.exists() and glob.has_magic(str(path)):
        matching = sorted(Path(path.anchor).glob(str(path.relative_to(path.anchor))))
        if not matching:
            raise CalltideError(f"nothing is called {path}; check the pattern")
        return [one for one in matching if one.is_file()]
    return [path]


def _rows(manifest: Path, common: Source) -> list[Source]:
    known = {"path", "call_id", "roles", "tenant", "queue", "agent"}
    sources = []
    try:
        with manifest.open(newline="", encoding="utf-8-sig") as file:
            rows = csv.DictReader(file, strict=True)
            if "path" not in (rows.fieldnames or ()):
                raise CalltideError(f"{manifest} has no column path; its first line names the columns")
            for row in rows:
                where = f"{manifest}, line {rows.line_num}"
                if None in row or None in row.values() or not row["path"]:
                    raise CalltideError(f"{where}: as many values as columns are needed, and a path; mend the row")
                given = {name: text.strip() for name, text in row.items() if text.strip()}
                try:
                    roles = roles_of(given.get("roles")) or common.roles
                except CalltideError as error:
                    raise CalltideError(f"{where}: {error}") from None
                sources.append(
                    replace(
                        common,
                        path=manifest.parent / given["path"],
                        roles=roles,
                        metadata={**common.metadata, **{name: given[name] for name in given.keys() - known}},
                        **{name: given[name] for name in ("call_id", "tenant", "queue", "agent") if name in given},
                    )
                )
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        raise CalltideError(f"{manifest} is no manifest that can be read ({error}); it is CSV in UTF-8") from None
    return sources


def sha256_of(path: Path) -> str:
    """The digest of a file's bytes, in hexadecimal; constant memory."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def call_id_of(source: Source, sha256: str) -> str:
    """The id that is given, or the file's name and the first 12 digits of its digest: the same for the same bytes."""
    name = re.sub(r"[^\w.-]+", "-", source.path.stem).strip("-")[:48]
    return source.call_id or f"{name or 'call'}-{sha256[:12]}"


def _made(directory: Path) -> Path:
    try:
        directory.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise CalltideError(
            f"{directory} cannot be written ({error.strerror}); set CALLTIDE_HOME, or --results"
        ) from None
    return directory


class Ledger:
    """What this home has sent to this Kafka, by call id. Used by one thread; other runs may use it at the same time."""

    def __init__(self, settings: Settings) -> None:
        directory = _made(settings.directory / "ingest")
        self.key = (settings.bootstrap_servers, settings.pipeline_version)
        own = psutil.Process()
        self.owner = f"{own.pid}:{own.create_time()}"
        self.database = sqlite3.connect(directory / "sent.sqlite3", timeout=30, isolation_level=None)
        self.database.execute(
            "CREATE TABLE IF NOT EXISTS sent (kafka TEXT, version TEXT, tenant TEXT, call_id TEXT, sha256 TEXT,"
            " owner TEXT, seconds REAL, error TEXT, at TEXT, PRIMARY KEY (kafka, version, tenant, call_id))"
        )

    def claim(self, tenant: str, call_id: str, sha256: str, *, again: bool = False) -> Outcome | None:
        """None: the call is ours to send; otherwise what is known of it.

        Raises CalltideError when the id belongs to other bytes, or another run is sending it now.
        """
        with self._transaction():
            known = self.known(tenant, call_id, sha256) if not again else None
            if known is None:
                self._write(tenant, call_id, sha256, self.owner, None, "")
            return known

    def known(self, tenant: str, call_id: str, sha256: str) -> Outcome | None:
        """As `claim`, without claiming it."""
        row = self.database.execute(
            "SELECT sha256, owner, seconds, error FROM sent WHERE (kafka, version, tenant, call_id) = (?, ?, ?, ?)",
            (*self.key, tenant, call_id),
        ).fetchone()
        if row is None:
            return None
        digest, owner, seconds, error = row
        if digest != sha256:
            raise CalltideError(f"call id {call_id} is another recording's; give another, or use --again to replace it")
        if seconds is not None:
            return Outcome("", call_id, "damaged" if error else "sent before", seconds, None, error)
        if owner != self.owner and _alive(owner):
            raise CalltideError(f"call {call_id} is being sent by process {owner.partition(':')[0]}; wait for it")
        return None

    def sent(self, tenant: str, call_id: str, sha256: str, seconds: float, error: str = "") -> None:
        """Kafka has all of the call."""
        with self._transaction():
            self._write(tenant, call_id, sha256, "", seconds, error)

    def _write(self, tenant: str, call_id: str, sha256: str, owner: str, seconds: float | None, error: str) -> None:
        at = datetime.now(UTC).isoformat(timespec="seconds")
        self.database.execute(
            "INSERT OR REPLACE INTO sent VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?)",
            (*self.key, tenant, call_id, sha256, owner, seconds, error, at),
        )

    @contextmanager
    def _transaction(self) -> Iterator[None]:
        # The write lock from the start: what was read holds until it is written.
        self.database.execute("BEGIN IMMEDIATE")
        try:
            yield
        except BaseException:
            self.database.execute("ROLLBACK")
            raise
        self.database.execute("COMMIT")

    def close(self) -> None:
        self.database.close()


def _alive(owner: str) -> bool:
    pid, _, created = owner.partition(":")
    try:
        return bool(pid) and str(psutil.Process(int(pid)).create_time()) == created
    except psutil.NoSuchProcess:
        return False


class Elsewhere:
    """What ClickHouse knows of calls: those that another machine has sent. Without a ClickHouse, nothing."""

    def __init__(self, settings: Settings) -> None:
        self.version = settings.pipeline_version
        self.client: Client | None = None
        try:
            self.client = connect(settings, answer_s=10)
        except Unreachable as error:
            log.info("%s; only what this machine sent is known", error)

    def known(self, tenant: str, call_id: str, sha256: str) -> Outcome | None:
        """A call that was heard to its end. Raises CalltideError when the id belongs to other bytes."""
        if self.client is None:
            return None
        try:
            rows = self.client.query(
                "SELECT metadata[{key:String}], end_reason, duration_ms FROM calls FINAL WHERE tenant = {tenant:String}"
                " AND call_id = {call:String} AND pipeline_version = {version:String}",
                {"key": SHA256, "tenant": tenant, "call": call_id, "version": self.version},
            ).result_rows
        except (ClickHouseError, OSError):
            # Gone, or without tables yet: then it knows of no call.
            return None
        for digest, reason, duration_ms in rows:
            if digest != sha256:
                raise CalltideError(
                    f"call id {call_id} is another recording's; give another, or use --again to replace it"
                )
            if reason == "hangup":
                return Outcome("", call_id, "sent before", duration_ms / 1_000)
        return None

    def close(self) -> None:
        if self.client is not None:
            self.client.close()


class Results:
    """`<directory>/<run>.csv`, a row as soon as it is known, and `.json`, at the end, with all."""

    def __init__(self, directory: Path, about: Mapping[str, object]) -> None:
        _made(directory)
        began = datetime.now(UTC)
        self.path = directory / f"{began:%Y%m%dT%H%M%S}-{os.getpid()}"
        self.about = {"began_at": began.isoformat(timespec="seconds"), **about}
        self.outcomes: list[Outcome] = []
        self._file: TextIO = self.path.with_suffix(".csv").open("w", newline="", encoding="utf-8")
        self._csv = csv.DictWriter(self._file, [one.name for one in fields(Outcome)])
        self._csv.writeheader()
        self._file.flush()

    def add(self, outcome: Outcome) -> None:
        self.outcomes.append(outcome)
        self._csv.writerow(asdict(outcome))
        self._file.flush()

    def close(self) -> None:
        """Write the JSON; the CSV anew where utterances have been counted since."""
        self._file.close()
        if any(outcome.utterances is not None for outcome in self.outcomes):
            with self.path.with_suffix(".csv").open("w", newline="", encoding="utf-8") as file:
                rows = csv.DictWriter(file, [one.name for one in fields(Outcome)])
                rows.writeheader()
                rows.writerows(map(asdict, self.outcomes))
        whole = {
            **self.about,
            "ended_at": datetime.now(UTC).isoformat(timespec="seconds"),
            "results": [asdict(outcome) for outcome in self.outcomes],
        }
        self.path.with_suffix(".json").write_text(json.dumps(whole, indent=1, ensure_ascii=False) + "\n")


class Heard:
    """Counts the utterances that come out for calls, from now on."""

    def __init__(self, settings: Settings) -> None:
        self.consumer = Consumer(kafka.consumer(settings, **{"group.id": f"{settings.kafka.group_prefix}.ingest"}))
        places = [TopicPartition(SCORES, number) for number in range(settings.kafka.partitions)]
        for place in places:
            _, place.offset = self.consumer.get_watermark_offsets(place, timeout=10)
        self.consumer.assign(places)

    def count(self, call_ids: set[str], stop: threading.Event) -> dict[str, int]:
        """Utterances by call, of the calls that ended before nothing came for QUIET_S or `stop` was set."""
        found: dict[str, set[tuple[int, int]]] = {one: set() for one in call_ids}
        ended: dict[str, int] = {}
        quiet_at = time.monotonic() + QUIET_S
        while len(ended) < len(found) and time.monotonic() < quiet_at and not stop.is_set():
            for message in self.consumer.consume(500, 0.2):
                call_id = (message.key() or b"").decode(errors="replace")
                if message.error() is not None or call_id not in found:
                    continue
                quiet_at = time.monotonic() + QUIET_S
                headers = {name: value or b"" for name, value in kafka.headers_of(message)}
                event = decode(headers, message.value() or b"")
                if isinstance(event, Score):
                    found[call_id].add((event.channel, event.start_ms))
                elif isinstance(event, CallEnded):
                    ended[call_id] = len(found[call_id])
        return ended

    def close(self) -> None:
        self.consumer.close()


@dataclass(slots=True)
class _Recording:
    """A source that was looked at: it has audio, or an error."""

    source: Source
    audio: AudioFile | None = None
    error: str = ""
    sha256: str = ""


def _look(source: Source, mix: bool) -> _Recording:
    try:
        audio = open_audio(source.path, mix)
        roles_for(audio, source.roles)
    except CalltideError as error:
        return _Recording(source, error=str(error))
    return _Recording(source, audio)


def _digested(recording: _Recording) -> _Recording:
    try:
        recording.sha256 = sha256_of(recording.source.path)
    except OSError as error:
        recording.error = f"{recording.source.path} cannot be read ({error.strerror}); copy it again"
    return recording


class FilesRun:
    """One `calltide ingest`. `run` may be called once; `results` is where its rows lie.

    `shown` is told, as often as something changes: files done, files in all, seconds of audio sent.
    """

    def __init__(
        self,
        settings: Settings,
        *,
        speed: float = 1.0,
        lane: Lane = "live",
        mix: bool = False,
        stagger_s: float = 0.0,
        again: bool = False,
        wait: bool = False,
        results: Path | None = None,
        shown: Callable[[int, int, float], None] = lambda _done, _all, _seconds: None,
    ) -> None:
        self.settings, self.speed, self.lane = settings, speed, lane
        self.mix, self.stagger_s, self.again, self.wait, self.shown = mix, stagger_s, again, wait, shown
        self.directory = results or settings.directory / "ingest"
        self.stop = threading.Event()
        self._total = 0
        self._sent_s = 0.0
        self._shown_at = 0.0
        self._next: _Recording | None = None
        """Taken, and not begun yet."""
        self._active: dict[str, tuple[Call, _Recording]] = {}

    def run(self, sources: Sequence[Source], watch: tuple[Path, Source] | None = None) -> Results:
        """Send each source once. `watch`: a drop folder, taken from until `stop` is set, and what is said of its calls.

        Raises CalltideError when no Kafka answers, or did not take every record; the results are written all the same.
        """
        if watch and not watch[0].is_dir():
            raise CalltideError(f"no directory {watch[0]} to watch; make it, or check the name")
        looked = [_look(source, self.mix) for source in sources]
        good = deque(recording for recording in looked if recording.audio is not None)
        self._total = len(looked)
        heard: Heard | None = None
        if good or watch:
            kafka.check(self.settings)
            heard = Heard(self.settings) if self.wait else None
        about = {"kafka": self.settings.bootstrap_servers, "lane": self.lane, "speed": str(self.speed)}
        self.results, self.ledger = Results(self.directory, about), Ledger(self.settings)
        elsewhere = self.elsewhere = Elsewhere(self.settings) if good or watch else None
        folder = self._dropped(*watch) if watch else iter(())
        try:
            for recording in looked:
                if recording.error:
                    self._done(Outcome(str(recording.source.path), status="failed", error=recording.error))
            if good or watch:
                self._send(good, folder)
            if heard is not None:
                mine = {one.call_id: one for one in self.results.outcomes if one.status in ("sent", "damaged")}
                for call_id, number in heard.count(set(mine), self.stop).items():
                    mine[call_id].utterances = number
        finally:
            # After a stop, those that were not begun; and those under way when Kafka refused or went away.
            for call, recording in self._active.values():
                self._done(_outcome(call, recording, *(("failed", NOT_ALL) if call.records else ("not begun", ""))))
            for left in [self._next, *good]:
                if left is not None:
                    self._done(Outcome(str(left.source.path), left.source.call_id or ""))
            self.results.close()
            self.ledger.close()
            if elsewhere is not None:
                elsewhere.close()
            if heard is not None:
                heard.close()
        return self.results

    def _send(self, good: deque[_Recording], folder: Iterator[_Recording | None]) -> None:
        ingest = Ingest(self.settings, self.lane)
        at_once = AT_ONCE_UNPACED if self.speed == MAXIMUM_SPEED else AT_ONCE
        with ThreadPoolExecutor(1, "digest") as digests:
            calls = self._calls(good, folder, digests)
            ingest.send(calls, at_once, self.speed, self.stop, self._progress, self._settled)

    def _calls(
        self, good: deque[_Recording], folder: Iterator[_Recording | None], digests: ThreadPoolExecutor
    ) -> Iterator[Call | None]:
        """Calls as they become ready: a digest takes long for a large file, and pacing does not wait for it."""
        digest: Future[_Recording] | None = None
        begun = 0
        while not self.stop.is_set():
            if self._next is None:
                try:
                    self._next = good.popleft() if good else next(folder)
                except StopIteration:
                    return
                digest = digests.submit(_digested, self._next) if self._next else None
            # Most take milliseconds; while others are under way, none is waited for.
            if digest is None or not futures.wait((digest,), 0 if self._active else LOOK_S).done:
                yield None
                continue
            recording, self._next, digest = digest.result(), None, None
            call = self._claimed(recording, begun * self.stagger_s)
            if call is not None:
                begun += 1
                self._active[call.info.call_id] = call, recording
                yield call

    def _claimed(self, recording: _Recording, delay_s: float) -> Call | None:
        """The call of a recording, unless it has been sent or cannot be."""
        source, audio, sha256 = recording.source, recording.audio, recording.sha256
        assert audio is not None
        call_id = call_id_of(source, sha256)
        known: Outcome | None = None
        error = recording.error
        try:
            if call_id in self._active:
                # The same bytes under the same name, in two places.
                known = Outcome("", call_id, "sent before")
            elif (
                self.elsewhere
                and not error
                and not self.again
                and self.ledger.known(source.tenant, call_id, sha256) is None
            ):
                known = self.elsewhere.known(source.tenant, call_id, sha256)
                if known is not None:
                    self.ledger.sent(source.tenant, call_id, sha256, known.seconds)
            if not error and known is None:
                known = self.ledger.claim(source.tenant, call_id, sha256, again=self.again)
        except CalltideError as refusal:
            error = str(refusal)
        if error:
            self._done(Outcome(str(source.path), call_id, "failed", error=error))
            return None
        if known is not None:
            self._done(replace(known, path=str(source.path)))
            return None
        info = CallInfo(
            call_id=call_id,
            started_at=now(),
            roles=roles_for(audio, source.roles),
            tenant=source.tenant,
            queue=source.queue,
            agent=source.agent,
            source=source.path.name,
            metadata={**source.metadata, SHA256: sha256},
        )
        return Call(info, audio, delay_s)

    def _progress(self, _call: Call) -> None:
        if time.monotonic() - self._shown_at < SHOWN_S:
            return
        self._shown_at = time.monotonic()
        self.shown(len(self.results.outcomes), self._total, self._sent_s + self._under_way_s())

    def _under_way_s(self) -> float:
        return sum(call.sent_ms for call, _ in self._active.values()) / 1_000

    def _settled(self, call: Call) -> None:
        """Kafka has answered for all of a call."""
        _, recording = self._active.pop(call.info.call_id)
        source = recording.source
        if not call.lost and not call.interrupted:
            seconds, error = call.sent_ms / 1_000, call.error or ""
            self.ledger.sent(source.tenant, call.info.call_id, recording.sha256, seconds, error)
        if call.lost:
            outcome = _outcome(call, recording, "failed", NOT_ALL)
        elif call.interrupted:
            outcome = _outcome(call, recording, "interrupted", "stopped before its end; ingest it again")
        else:
            outcome = _outcome(call, recording, "damaged" if call.error else "sent", call.error or "")
        self._done(outcome)

    def _done(self, outcome: Outcome) -> None:
        self.results.add(outcome)
        self._sent_s += outcome.seconds
        self.shown(len(self.results.outcomes), self._total, self._sent_s + self._under_way_s())

    def _dropped(self, directory: Path, common: Source) -> Iterator[_Recording | None]:
        """The recordings of a drop folder, each once it has been written; None while there is none."""
        taken: set[tuple[Path, int, int]] = set()
        changing: dict[Path, tuple[int, int, float]] = {}
        looked_at = 0.0
        while True:
            if time.monotonic() - looked_at < LOOK_S:
                yield None
                continue
            looked_at = time.monotonic()
            for path in sorted(directory.rglob("*")):
                if path.suffix.lower() not in SUFFIXES or path.name.startswith("."):
                    continue
                try:
                    state = path.stat()
                except FileNotFoundError:
                    continue
                mark = state.st_size, state.st_mtime_ns
                if (path, *mark) in taken:
                    continue
                if changing.get(path, (0, 0, 0.0))[:2] != mark:
                    changing[path] = (*mark, looked_at)
                elif looked_at - changing[path][2] >= SETTLED_S:
                    taken.add((path, *mark))
                    del changing[path]
                    recording = _look(replace(common, path=path), self.mix)
                    self._total += 1
                    if recording.error:
                        self._done(Outcome(str(path), status="failed", error=recording.error))
                    else:
                        yield recording


def _outcome(call: Call, recording: _Recording, status: Status, error: str) -> Outcome:
    return Outcome(str(recording.source.path), call.info.call_id, status, call.sent_ms / 1_000, None, error)


def check(source: Source, mix: bool, ledger: Ledger | None) -> Check:
    """Read a file to its end and say what is in it; nothing is sent. `ledger` None: nothing was sent before."""
    path = source.path
    looked = _look(source, mix)
    audio = looked.audio
    if audio is None:
        return Check(str(path), error=looked.error)
    energy_floor = 10 ** (SILENCE_DBFS / 10)
    silent, heard, error, warnings = np.zeros(audio.channels), 0, "", []
    try:
        for block in audio.blocks():
            heard += len(block)
            silent += len(block) * (np.mean(block**2, axis=0) < energy_floor)
    except CalltideError as damage:
        error = str(damage)
    shares = tuple(round(float(share), 3) for share in silent / max(heard, 1))
    if heard and min(shares) == 1.0:
        warnings.append("silent")
    elif 1.0 in shares:
        warnings.append(f"channel {shares.index(1.0) + 1} is silent")
    _digested(looked)
    error = error or looked.error
    call_id = call_id_of(source, looked.sha256)
    if ledger is not None and not error:
        try:
            known = ledger.known(source.tenant, call_id, looked.sha256)
            warnings += ["was sent before"] if known else []
        except CalltideError as refusal:
            error = str(refusal)
    with av.open(str(path)) as container:
        stream = container.streams.audio[0]
        kind = f"{container.format.name}/{stream.codec_context.name}"
        channels = len(stream.codec_context.layout.channels)
    seconds = heard / audio.rate
    return Check(str(path), call_id, kind, seconds, channels, audio.source_rate, shares, ", ".join(warnings), error)


def dry_run(
    settings: Settings,
    sources: Sequence[Source],
    mix: bool = False,
    shown: Callable[[int, int, float], None] = lambda _done, _all, _seconds: None,
) -> list[Check]:
    """Check every file, one after the other; two of the same call id are an error of the second."""
    ledger = Ledger(settings) if (settings.directory / "ingest" / "sent.sqlite3").exists() else None
    checks: list[Check] = []
    seen: dict[str, str] = {}
    for source in sources:
        found = check(source, mix, ledger)
        if found.call_id and (first := seen.setdefault(found.call_id, found.path)) != found.path:
            found = replace(found, warning=f"the same recording as {first}")
        checks.append(found)
        shown(len(checks), len(sources), sum(one.seconds for one in checks))
    if ledger is not None:
        ledger.close()
    return checks
