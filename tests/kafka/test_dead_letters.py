"""Dead letters against the real broker: whoever redrives, and however often, a record goes back once."""

import json
import subprocess
import sys
import threading
import time
import uuid
from collections.abc import Callable
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest
from confluent_kafka import Consumer, Producer, TopicPartition
from confluent_kafka.admin import AdminClient, NewTopic

from deploy.topics import Topics
from schemas.audio import AudioPacket
from schemas.errors import CalltideError
from schemas.events import CallInfo, Segment, encode
from schemas.topics import DEAD_LETTERS, topics
from streams import cli, dead_letters, kafka
from streams.dead_letters import REDRIVEN, TRANSACTIONAL_ID, DeadLetters, Filter, parse_id
from streams.history import moment
from streams.settings import Settings
from tests.workers import PARTITIONS, Found, Reader, Writer, create_topics, everything, settings_for, stage_for

pytestmark = pytest.mark.kafka
ROOT = Path(__file__).parent.parent.parent

NOW_MS = int(time.time() * 1_000) - 60_000
Headers = list[tuple[str, str | bytes | None]]


@dataclass
class Run:
    """How a run of the command line ended."""

    status: int
    out: str
    err: str


class Bench:
    """A topic `name` that records came from, and letters of the call `name` in the one dead.letters of all tests."""

    def __init__(self, settings: Settings, call: Callable[..., Run]) -> None:
        self.settings = settings
        self.bootstrap = settings.bootstrap_servers
        self.name = settings.kafka.group_prefix
        self.call = call
        self.producer = Producer(kafka.producer(settings, log_level=0))

    def run(self, *arguments: str) -> Run:
        return self.call(self.settings, *arguments)

    def create(self, config: dict[str, str] | None = None) -> None:
        admin = AdminClient({"bootstrap.servers": self.bootstrap})
        admin.create_topics([NewTopic(self.name, PARTITIONS, 1, config=config or {})])[self.name].result(30)

    def write(self, value: bytes = b"poison", headers: Headers | None = None, **about: object) -> str:
        """A letter as a stage writes it, or with other headers; returns its id."""
        error = {"topic": self.name, "partition": 2, "offset": 7, "stage": "asr", "exception.class.name": "a.B"}
        error |= {"exception.message": "it broke", "exception.stacktrace": "Traceback\n  in _one"} | about
        own: Headers = [("kind", b"audio")] if headers is None else headers
        return self.write_raw(
            value, [*own, *((f"__connect.errors.{name}", str(one).encode()) for name, one in error.items())]
        )

    def write_raw(
        self, value: bytes | None, headers: Headers, key: str | None = "", partition: int = 5, at_ms: int = NOW_MS
    ) -> str:
        ids: list[str] = []
        self.producer.produce(
            DEAD_LETTERS,
            value,
            self.name if key == "" else key,
            partition,
            on_delivery=lambda error, message: ids.append(f"{message.partition()}:{message.offset()}"),
            timestamp=at_ms,
            headers=headers,
        )
        assert self.producer.flush(30) == 0
        return ids[0]

    def returned(self) -> list[Found]:
        """What lies in the topic that records came from."""
        return everything(self.bootstrap, self.name).found

    def raw_headers(self, record: Found) -> Headers:
        """In order, doubled ones and those without a value as they are."""
        consumer = Consumer({"bootstrap.servers": self.bootstrap, "group.id": "nobody"})
        consumer.assign([TopicPartition(self.name, record.partition, record.offset)])
        (message,) = consumer.consume(1, 30)
        consumer.close()
        return [*kafka.headers_of(message)]

    def listed(self, *more: str) -> list[dict[str, Any]]:
        return [json.loads(line) for line in self.run("list", "--call", self.name, "--json", *more).out.splitlines()]


@pytest.fixture
def call(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Callable[..., Run]:
    """Run `calltide dead-letters …` in this process."""
    monkeypatch.setenv("COLUMNS", "200")

    def run(settings: Settings, *arguments: str) -> Run:
        monkeypatch.setattr("streams.settings.load", lambda: settings)
        monkeypatch.setattr(sys, "argv", ["calltide", "dead-letters", *arguments])
        capsys.readouterr()
        with pytest.raises(SystemExit) as ended:
            cli.main()
        code = ended.value.code
        assert isinstance(code, int)
        return Run(code, *capsys.readouterr())

    return run


@pytest.fixture
def bench(kafka_bootstrap: str, call: Callable[..., Run]) -> Bench:
    Topics(kafka_bootstrap).create([topic for topic in topics() if topic.name == DEAD_LETTERS])
    return Bench(settings_for(kafka_bootstrap, f"t{uuid.uuid4().hex[:8]}"), call)


def test_a_poisoned_record_is_listed_redriven_and_comes_again_when_the_stage_is_not_mended(
    bench: Bench, tmp_path: Path
) -> None:
    row = stage_for(bench.name)
    create_topics(bench.bootstrap, row)
    call = f"{bench.name}-call"
    command = [sys.executable, "-m", "tests.workers", bench.bootstrap, bench.name, "0", "30000", "0", str(tmp_path)]
    worker = subprocess.Popen(command, cwd=ROOT, stderr=subprocess.DEVNULL)
    try:
        writer = Writer(bench.settings, row.reads)
        writer.write([(call, "audio", b"1"), (call, "audio", b"poison"), (call, "call_ended", b"")], NOW_MS)
        writer.flush()
        letters = Reader(bench.bootstrap, DEAD_LETTERS, 8)
        letters.until(lambda: any(one.key == call for one in letters.found), "the letter")
        (shown,) = (json.loads(line) for line in bench.run("list", "--call", call, "--json").out.splitlines())
        assert (shown["stage"], shown["topic"], shown["kind"]) == ("vad", row.reads, "audio")
        assert (shown["exception"], shown["message"], shown["bytes"]) == ("builtins.ValueError", "poison", 6)
        assert "in _one" in bench.run("show", shown["id"]).out
        assert bench.run("redrive", shown["id"]).status == 0
        # A letter and the marker that settles it; then the letter of the record that failed again.
        letters.until(lambda: sum(one.key == call for one in letters.found) == 3, "a letter of the redriven record")
        letters.close()
    finally:
        worker.terminate()
        assert worker.wait(90) == 0
    before, again = (record for record in everything(bench.bootstrap, row.reads).found if record.value == b"poison")
    assert again.headers == before.headers | {REDRIVEN: shown["id"].encode()}
    assert (again.key, again.partition, again.timestamp_ms) == (call, before.partition, NOW_MS)
    (letter,) = (json.loads(line) for line in bench.run("list", "--call", call, "--json").out.splitlines())
    assert (letter["offset"], letter["settled"]) == (again.offset, None)
    assert letter["id"] != shown["id"]


def test_a_record_goes_back_whole_and_only_once(bench: Bench) -> None:
    bench.create()
    own: Headers = [("kind", b"audio"), ("twice", b"1"), ("twice", b"2"), ("bytes", b"\xff\x00"), ("none", None)]
    letter = bench.write(b"\x00value", [*own, (REDRIVEN, b"1:1")])
    done = bench.run("redrive", letter)
    assert (done.status, done.err) == (0, "")
    assert done.out.splitlines() == [f"{letter}  redriven  {bench.name}/2/7  {bench.name}", "1 redriven"]
    refused = bench.run("redrive", letter)
    assert (refused.status, refused.out) == (1, "0 redriven\n")
    assert refused.err.startswith(f"calltide: {letter} was redriven already, at 20")
    assert bench.run("drop", letter).err == refused.err
    assert bench.run("redrive", "--call", bench.name, "--all-listed").out == "0 redriven\n"
    (back,) = bench.returned()
    assert (back.partition, back.key, back.value, back.timestamp_ms) == (2, bench.name, b"\x00value", NOW_MS)
    assert bench.raw_headers(back) == [*own, (REDRIVEN, letter.encode())]


def test_what_is_dropped_is_hidden_and_still_there(bench: Bench) -> None:
    bench.create()
    first, second = bench.write(), bench.write()
    listed = bench.run("list", "--call", bench.name).out
    assert listed.splitlines()[-1] == "2 dead letters"
    row = next(line.split() for line in listed.splitlines() if line.split()[:1] == [first])
    assert row[3:] == ["asr", bench.name, f"{bench.name}/2/7", "B:", "it", "broke"]
    assert bench.run("drop", first).out.endswith("1 dropped\n")
    assert [letter["id"] for letter in bench.listed()] == [second]
    assert [letter["settled"] for letter in bench.listed("--all")] == ["dropped", None]
    hidden = bench.run("list", "--call", bench.name).out.splitlines()[-1]
    assert hidden == "1 dead letter; 1 settled are hidden, --all shows them"
    shown = bench.run("list", "--call", bench.name, "--all").out
    assert shown.splitlines()[-1] == "2 dead letters, 1 of them settled"
    assert "[dropped] B: it broke" in shown
    assert "settled  dropped at 20" in bench.run("show", first).out
    assert bench.returned() == []


def test_a_long_table_is_cut_to_the_latest(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(dead_letters, "ROWS", 2)
    ids = [bench.write_raw(b"", [], at_ms=NOW_MS - ago) for ago in (5, 30, 10)]
    *rows, note, count = bench.run("list", "--call", bench.name).out.splitlines()
    assert [row.split()[0] for row in rows if row.strip()[:1].isdigit()] == [ids[2], ids[0]]
    assert note.startswith("only the latest 2 are shown; ")
    assert count == "3 dead letters"


def test_letters_are_chosen_by_stage_call_and_time(bench: Bench) -> None:
    bench.create()
    kinds: Headers = [("kind", b"audio"), ("__connect.errors.stage", b"batch.vad")]
    old = bench.write_raw(b"", kinds, at_ms=NOW_MS - 7_200_000)
    new = bench.write_raw(b"", kinds)
    other = bench.write(stage="asr")
    ids = [letter["id"] for letter in bench.listed("--stage", "batch.vad")]
    assert ids == [old, new]
    assert [letter["id"] for letter in bench.listed("--since", "1h")] == [new, other]
    day = datetime.fromtimestamp(NOW_MS / 1_000 - 3_600, UTC).isoformat()
    assert [letter["id"] for letter in bench.listed("--since", day, "--stage", "batch.vad")] == [new]
    assert bench.run("list", "--call", uuid.uuid4().hex).out == "0 dead letters\n"


@pytest.mark.parametrize(
    ("arguments", "fault"),
    [
        ((), "no letters named"),
        (("--stage", "asr"), "no letters named; give PARTITION:OFFSET, or --all-listed"),
        (("1:2", "--all-listed"), "exclude each other"),
        (("1:2", "--call", "x"), "exclude each other"),
        (("1-2",), "1-2 is no letter; give PARTITION:OFFSET"),
        (("--all-listed", "--since", "yesterday"), "--since yesterday is no time"),
    ],
)
@pytest.mark.parametrize("command", ["redrive", "drop"])
def test_nothing_is_settled_by_mistake(bench: Bench, command: str, arguments: tuple[str, ...], fault: str) -> None:
    ended = bench.run(command, *arguments)
    assert (ended.status, ended.out) == (1, "")
    assert fault in ended.err
    assert ended.err.count("\n") == 1


def test_what_is_possible_is_done_and_the_rest_is_said(bench: Bench) -> None:
    bench.create({"retention.ms": "3600000"})
    good = bench.write()
    gone = bench.write(topic=f"{bench.name}.gone")
    narrow = bench.write(partition=PARTITIONS)
    nowhere = bench.write(partition="two")
    heard = bench.write(topic="batch.audio.frames")
    about: Headers = [("__connect.errors.topic", bench.name.encode()), ("__connect.errors.partition", b"0")]
    old = bench.write_raw(b"", about, at_ms=NOW_MS - 3_600_000)
    ended = bench.run("redrive", "5:99999999", old, gone, narrow, nowhere, heard, good, good, "99:0")
    assert ended.out.splitlines() == [f"{good}  redriven  {bench.name}/2/7  {bench.name}", "1 redriven"]
    assert ended.status == 1
    faults = {line.removeprefix("calltide: ") for line in ended.err.splitlines()}
    assert faults == {
        "there is no dead letter 5:99999999; `calltide dead-letters list` shows what there is",
        "there is no dead letter 99:0; `calltide dead-letters list` shows what there is",
        f"{gone} cannot be redriven: topic {bench.name}.gone is gone; create it with `calltide topics create`",
        f"{narrow} cannot be redriven: topic {bench.name} has no partition {PARTITIONS} any more",
        f"{nowhere} cannot be redriven: its headers do not say where it came from; see `calltide dead-letters show`",
        f"{heard} cannot be redriven: audio is heard in order and cannot come later; ingest the recording again",
        f"{old} cannot be redriven: it is older than what {bench.name} keeps, so Kafka might delete it unread; "
        f"raise CALLTIDE_KAFKA__RETENTION_HOURS and run `calltide topics fix {bench.name}`",
    }
    assert [letter["id"] for letter in bench.listed()] == [old, gone, narrow, nowhere, heard]
    assert bench.run("drop", "--call", bench.name, "--all-listed").out.endswith("5 dropped\n")
    assert len(bench.returned()) == 1


def test_letters_that_others_broke_are_listed_shown_and_dropped(bench: Bench) -> None:
    about = "__connect.errors."
    broken: list[tuple[bytes | None, Headers]] = [
        (None, []),
        (b"x", [(f"{about}topic", None), (f"{about}partition", b"-1"), (f"{about}offset", b"")]),
        (b"x", [("kind", b"\xff\xfe"), (f"{about}stage", b"\xff"), (f"{about}exception.message", b"\x1b[31m\nred\r")]),
        (b"{}", [("kind", b"turn"), (f"{about}exception.message", b"[bold]x[/nothing]")]),
        (b"x", [("kind", b"audio"), ("codec", b"mulaw")]),
        (b"x", [("calltide.settled", b"lost"), ("calltide.settles", b"0")]),
        (b"x", [("calltide.settled", b"dropped"), ("calltide.settles", b"0"), (f"{about}stage", b"vad")]),
    ]
    ids = [bench.write_raw(value, headers) for value, headers in broken]
    keyless = bench.write_raw(b"x", [], key=None)
    assert [letter["id"] for letter in bench.listed()] == ids
    assert keyless in bench.run("list").out
    table = bench.run("list", "--call", bench.name).out
    assert "\x1b" not in table
    assert "\\x1b[31m" in table
    assert "[bold]x[/nothing]" in table
    for one in (*ids, keyless):
        shown = bench.run("show", one)
        assert (shown.status, shown.err) == (0, "")
        assert "\x1b" not in shown.out
        assert "do not decode" in shown.out
    assert bench.run("redrive", *ids).out == "0 redriven\n"
    assert bench.run("drop", *ids, keyless).status == 0
    assert bench.listed() == []


def test_show_tells_what_is_inside_and_saves_the_value(bench: Bench, tmp_path: Path) -> None:
    packet = AudioPacket(1, "mulaw", 8_000, 800, 1, bytes(range(200)) * 4)
    shown = bench.run("show", bench.write(packet.value, list(packet.headers())), "--value", str(tmp_path / "value"))
    assert (tmp_path / "value").read_bytes() == packet.value
    lines = shown.out.splitlines()
    assert "value    800 bytes: 0.100 s of mulaw at 8000 Hz" in lines
    assert f"from     {bench.name}/2/7" in lines
    assert "error    a.B: it broke" in lines
    assert "  sample: 800" in lines
    assert lines[-3:] == ["stack trace", "Traceback", "  in _one"]
    info = CallInfo(call_id=bench.name, started_at=datetime(2026, 1, 2, tzinfo=UTC), roles=("agent",))
    segment = Segment(
        call=info,
        channel=0,
        start_ms=10,
        end_ms=510,
        cut="pause",
        codec="pcm_s16le",
        rate=16_000,
        captured_at=info.started_at,
    )
    headers, value = encode(segment, bytes(16_000))
    lines = bench.run("show", bench.write(value, list(headers))).out.splitlines()
    assert "value    16000 bytes: 0.500 s of pcm_s16le at 16000 Hz" in lines
    assert '  "start_ms": 10,' in lines
    unwritable = bench.run("show", bench.write(), "--value", str(tmp_path))
    assert unwritable.status == 1
    assert "Is a directory" in unwritable.err
    absent = bench.run("show", "5:99999999")
    assert (absent.status, absent.out) == (1, "")
    assert absent.err.startswith("calltide: there is no dead letter 5:99999999;")


def test_one_who_is_overtaken_writes_nothing_more(bench: Bench) -> None:
    bench.create()
    ids = [bench.write() for _ in range(dead_letters.BATCH_LETTERS + 50)]
    mine = Filter(call=bench.name)
    first: list[str] = []
    second: list[str] = []

    def tell(letter: dead_letters.Letter) -> None:
        first.append(letter.id)
        if len(first) == dead_letters.BATCH_LETTERS:
            assert DeadLetters(bench.settings).settle("redriven", mine, lambda one: second.append(one.id)) == []

    with pytest.raises(CalltideError, match=r"somebody else .* took over"):
        DeadLetters(bench.settings).settle("redriven", mine, tell)
    assert [*first, *second] == ids
    assert [record.headers[REDRIVEN].decode() for record in bench.returned()] == ids


def test_of_runs_at_once_each_letter_is_redriven_by_one(bench: Bench) -> None:
    bench.create()
    ids = [bench.write() for _ in range(2 * dead_letters.BATCH_LETTERS)]
    together = threading.Barrier(3)
    told: list[str] = []
    overtaken: list[str] = []

    def run(desk: DeadLetters) -> None:
        together.wait(90)
        try:
            assert desk.settle("redriven", Filter(call=bench.name), lambda letter: told.append(letter.id)) == []
        except CalltideError as error:
            overtaken.append(str(error))

    threads = [threading.Thread(target=run, args=(DeadLetters(bench.settings),)) for _ in range(together.parties)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
        assert not thread.is_alive()
    assert len(overtaken) < together.parties, "whoever comes last is overtaken by nobody"
    assert all("took over" in error for error in overtaken), overtaken
    assert sorted(told) == sorted(ids)
    assert sorted(record.headers[REDRIVEN].decode() for record in bench.returned()) == sorted(ids)
    assert bench.listed() == []


def test_what_a_killed_run_had_begun_is_void_and_done_once(bench: Bench) -> None:
    bench.create()
    letter = bench.write()
    ghost = Producer({"bootstrap.servers": bench.bootstrap, "transactional.id": TRANSACTIONAL_ID, "log_level": 0})
    ghost.init_transactions(30)
    ghost.begin_transaction()
    ghost.produce(bench.name, b"poison", bench.name, 2)
    settles: Headers = [("calltide.settled", b"redriven"), ("calltide.settles", letter.split(":")[1].encode())]
    ghost.produce(DEAD_LETTERS, b"", bench.name, 5, headers=settles)
    assert ghost.flush(30) == 0
    assert bench.run("redrive", letter).status == 0
    (back,) = bench.returned()
    assert back.headers[REDRIVEN] == letter.encode()


def test_a_marker_behind_an_open_transaction_of_a_stage_is_waited_for(bench: Bench) -> None:
    letter = bench.write()
    ghost = Producer({"bootstrap.servers": bench.bootstrap, "transactional.id": bench.name, "log_level": 0})
    ghost.init_transactions(30)
    ghost.begin_transaction()
    ghost.produce(DEAD_LETTERS, b"never committed", bench.name, 5)
    assert ghost.flush(30) == 0
    bench.write_raw(b"", [("calltide.settled", b"redriven"), ("calltide.settles", letter.split(":")[1].encode())])
    faults: list[str] = []

    def settle() -> None:
        faults.extend(DeadLetters(bench.settings).settle("redriven", [parse_id(letter)]))

    thread = threading.Thread(target=settle)
    thread.start()
    thread.join(1)
    assert thread.is_alive(), "it must not take the letter for unsettled while it cannot see behind the transaction"
    ghost.abort_transaction(30)
    thread.join(60)
    assert not thread.is_alive()
    assert [fault.partition(",")[0] for fault in faults] == [f"{letter} was redriven already"]


def test_no_topic_is_one_line(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(dead_letters, "DEAD_LETTERS", f"{bench.name}.absent")
    absent = bench.run("list")
    assert (absent.status, absent.out) == (1, "")
    assert absent.err == f"calltide: there is no topic {bench.name}.absent; create it with `calltide topics create`\n"


def test_no_kafka_is_one_line(call: Callable[..., Run], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(kafka, "ANSWER_S", 1.0)
    nobody = call(settings_for("127.0.0.1:1", "t"), "redrive", "1:1")
    assert (nobody.status, nobody.out) == (1, "")
    assert nobody.err.startswith("calltide: no Kafka at 127.0.0.1:1 (")
    assert nobody.err.count("\n") == 1


@pytest.mark.parametrize(
    ("text", "wanted"),
    [
        ("24h", "2026-01-30T12:00:00+00:00"),
        ("90s", "2026-01-31T11:58:30+00:00"),
        ("7d", "2026-01-24T12:00:00+00:00"),
        ("2026-01-31", "2026-01-31T00:00:00+00:00"),
        ("2026-01-31T14:00", "2026-01-31T14:00:00+00:00"),
        ("2026-01-31T14:00+02:00", "2026-01-31T12:00:00+00:00"),
        ("2026-01-31T14:00Z", "2026-01-31T14:00:00+00:00"),
    ],
)
def test_a_time_is_an_age_or_iso(text: str, wanted: str) -> None:
    wanted_ms = datetime.fromisoformat(wanted).timestamp() * 1_000
    assert moment(text, "--since", datetime(2026, 1, 31, 12, tzinfo=UTC)) == wanted_ms


@pytest.mark.parametrize("text", ["", "h", "1.5h", "yesterday", "99999999999d", "2026-13-01"])
def test_what_is_no_time_is_said(text: str) -> None:
    with pytest.raises(CalltideError, match="is no time; give 90s"):
        moment(text, "--since", datetime(2026, 1, 31, tzinfo=UTC))
