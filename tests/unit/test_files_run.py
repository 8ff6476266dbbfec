"""What `calltide ingest` is told to send, what it finds out about files without sending them, and what it remembers."""

from pathlib import Path

import numpy as np
import psutil
import pytest
import soundfile

from schemas.errors import CalltideError
from streams.ingestion.command import ingest
from streams.ingestion.files_run import (
    Check,
    Ledger,
    Source,
    call_id_of,
    dry_run,
    gather,
    sha256_of,
    speed_of,
)
from streams.packets import roles_of
from streams.settings import Settings

COMMON = Source(Path(), tenant="t", queue="billing")


def noise(path: Path, seconds: float = 1.0, channels: int = 1, rate: int = 8_000, seed: int = 7) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    samples = np.random.default_rng(seed).uniform(-0.5, 0.5, (round(rate * seconds), channels))
    soundfile.write(path, samples, rate)
    return path


def manifest(path: Path, *lines: str) -> Path:
    path.write_text("\n".join(lines) + "\n", encoding="utf-8")
    return path


@pytest.fixture
def settings(tmp_path: Path) -> Settings:
    return Settings(home=tmp_path / "home")


def test_files_directories_and_patterns_each_once(tmp_path: Path) -> None:
    first, second = noise(tmp_path / "a" / "1.wav"), noise(tmp_path / "a" / "b" / "2.FLAC")
    (tmp_path / "a" / "notes.txt").write_text("no recording")
    found = gather([second, tmp_path / "a", tmp_path / "**" / "*.wav"], None, COMMON)
    assert [source.path for source in found] == [second, first]
    assert {source.queue for source in found} == {"billing"}


def test_what_is_named_and_absent_is_said(tmp_path: Path) -> None:
    with pytest.raises(CalltideError, match="no recordings in"):
        gather([tmp_path], None, COMMON)
    with pytest.raises(CalltideError, match="nothing is called"):
        gather([tmp_path / "*.wav"], None, COMMON)
    assert [one.path for one in gather([tmp_path / "absent.wav"], None, COMMON)] == [tmp_path / "absent.wav"]


def test_a_manifest_says_what_a_file_s_call_is(tmp_path: Path) -> None:
    whole = noise(tmp_path / "1.wav", channels=2)
    rows = manifest(
        tmp_path / "calls.csv",
        "\ufeffpath,call_id,roles,tenant,agent,campaign",
        '1.wav,first,"customer,agent",,Diane,spring',
        "2.wav,,,other,,",
    )
    first, second = gather([whole], rows, COMMON)
    assert first == Source(whole, "first", ("customer", "agent"), "t", "billing", "Diane", {"campaign": "spring"})
    assert second == Source(tmp_path / "2.wav", None, None, "other", "billing", "", {})


@pytest.mark.parametrize(
    ("lines", "message"),
    [
        (["file", "1.wav"], "no column path"),
        (["path,roles", "1.wav,boss"], "line 2: unknown role 'boss'"),
        (["path,agent", "1.wav"], "line 2: as many values"),
        (["path", "1.wav,x"], "line 2: as many values"),
        (["path,agent", ",Diane"], "line 2: .* a path"),
        (["path,call_id", "1.wav,x", "2.wav,x"], "call id x stands twice"),
        (["path", '"1.wav'], "no manifest that can be read"),
    ],
)
def test_a_wrong_manifest_is_refused(tmp_path: Path, lines: list[str], message: str) -> None:
    with pytest.raises(CalltideError, match=message):
        gather([], manifest(tmp_path / "calls.csv", *lines), COMMON)


def test_options_in_words() -> None:
    assert roles_of("agent|customer") == roles_of("agent, customer") == ("agent", "customer")
    assert roles_of("") is None
    assert (speed_of("max"), speed_of("2.5")) == (float("inf"), 2.5)
    for wrong in ("fast", "0", "-1", "nan"):
        with pytest.raises(CalltideError, match="is no speed"):
            speed_of(wrong)


def test_an_id_is_made_of_the_name_and_the_bytes(tmp_path: Path) -> None:
    path, other = noise(tmp_path / "a call.wav"), noise(tmp_path / "x" / "a call.wav", seed=8)
    digest = sha256_of(path)
    assert call_id_of(Source(path), digest) == f"a-call-{digest[:12]}"
    assert call_id_of(Source(other), sha256_of(other)) != call_id_of(Source(path), digest)
    assert call_id_of(Source(path, "mine"), digest) == "mine"


def checked(settings: Settings, *paths: Path) -> list[Check]:
    return dry_run(settings, [Source(path) for path in paths])


def test_a_dry_run_reads_every_file_to_its_end(settings: Settings, tmp_path: Path) -> None:
    stereo = tmp_path / "half silent.flac"
    samples = np.zeros((88_200, 2))
    samples[:44_100, 1] = np.random.default_rng(1).uniform(-0.1, 0.1, 44_100)
    soundfile.write(stereo, samples, 44_100)
    cut = noise(tmp_path / "cut.flac", 20, rate=16_000)
    cut.write_bytes(cut.read_bytes()[: cut.stat().st_size // 2])
    good = noise(tmp_path / "good.wav")
    copy = tmp_path / "copy" / "good.wav"
    copy.parent.mkdir()
    copy.write_bytes(good.read_bytes())
    one, two, three, four, five = checked(settings, good, stereo, cut, tmp_path / "absent.wav", copy)
    assert (one.format, one.seconds, one.channels, one.rate) == ("wav/pcm_s16le", 1.0, 1, 8_000)
    assert (one.silent, one.warning, one.error) == ((0.0,), "", "")
    assert (two.channels, two.rate, two.warning) == (2, 44_100, "channel 1 is silent")
    assert two.seconds == pytest.approx(2.0, abs=0.01)
    assert two.silent[0] == 1.0
    assert two.silent[1] == pytest.approx(0.5, abs=0.1)
    assert "damaged" in three.error or "cut short" in three.error
    assert 5 < three.seconds < 15
    assert "no file" in four.error
    assert "the same recording as" in five.warning
    assert not (settings.directory / "ingest").exists(), "nothing was written"


def test_the_command_prints_the_report_and_fails_for_what_is_not_good(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("COLUMNS", "200")
    cut = noise(tmp_path / "calls" / "cut.flac", 20, rate=16_000)
    cut.write_bytes(cut.read_bytes()[: cut.stat().st_size // 2])
    noise(tmp_path / "calls" / "good.wav", channels=2)
    (tmp_path / "calls" / "text.wav").write_text("no audio" * 100)
    with pytest.raises(CalltideError) as refused:
        ingest([tmp_path / "calls"], dry_run=True)
    told = capsys.readouterr().out.splitlines()
    assert told[0].split() == ["file", "format", "length", "channels", "Hz", "silence"]
    rows = {Path(line.split("  ")[0]).name: line.split()[1:] for line in told[1:4]}
    assert rows["good.wav"] == ["wav/pcm_s16le", "1.0", "s", "2", "8000", "0%", "0%", "good"]
    assert rows["cut.flac"][0].startswith("flac/") and rows["cut.flac"][-1] == "damaged"
    assert rows["text.wav"] == ["no", "call"]
    assert told[4] == "3 files, 0.00 hours of audio, 2 of them not good"
    said = str(refused.value).split("\ncalltide: ")
    assert len(said) == 2 and "cut.flac" in said[0] and "text.wav" in said[1]


def test_a_silent_file_is_said_to_be_silent(settings: Settings, tmp_path: Path) -> None:
    soundfile.write(tmp_path / "s.wav", np.full(16_000, 0.0005), 16_000)
    (found,) = checked(settings, tmp_path / "s.wav")
    assert (found.silent, found.warning) == ((1.0,), "silent")


def test_the_ledger_knows_what_was_sent(settings: Settings, tmp_path: Path) -> None:
    path = noise(tmp_path / "a.wav")
    digest = sha256_of(path)
    ledger = Ledger(settings)
    assert ledger.claim("t", "c", digest) is None
    assert ledger.claim("t", "c", digest) is None, "a run may try again what it did not bring to its end"
    ledger.sent("t", "c", digest, 1.5)
    known = ledger.claim("t", "c", digest)
    assert known is not None
    assert (known.status, known.seconds) == ("sent before", 1.5)
    with pytest.raises(CalltideError, match="call id c is another recording's"):
        ledger.claim("t", "c", "0" * 64)
    assert ledger.claim("other tenant", "c", "0" * 64) is None
    assert ledger.claim("t", "c", digest, again=True) is None
    ledger.sent("t", "c", digest, 0.5, "damaged")
    again = Ledger(settings).claim("t", "c", digest)
    assert again is not None
    assert (again.status, again.error) == ("damaged", "damaged")
    newer = Ledger(settings.model_copy(update={"pipeline_version": "v2"}))
    assert newer.claim("t", "c", digest) is None, "another version hears it anew"


def test_a_call_that_another_process_sends_is_left_to_it(settings: Settings) -> None:
    ledger, parent = Ledger(settings), psutil.Process().parent()
    assert parent is not None
    ledger.owner = f"{parent.pid}:{parent.create_time()}"
    ledger.claim("t", "c", "0" * 64)
    other = Ledger(settings)
    with pytest.raises(CalltideError, match=f"being sent by process {parent.pid}"):
        other.claim("t", "c", "0" * 64)
    ledger.owner = f"{parent.pid}:0.0"
    ledger.claim("t", "c", "0" * 64, again=True)
    assert other.claim("t", "c", "0" * 64) is None, "that process has died: its number is another's now"
