"""A recording over the API, heard by the real chain: what comes of it, and of hearing it again."""

from pathlib import Path
from typing import Any

import httpx
import pytest
import soundfile

from tests.chain.support import Stack, until

pytestmark = [pytest.mark.kafka, pytest.mark.models, pytest.mark.slow]


def test_a_recording_is_brought_heard_exported_and_judged_again(stack: Stack, test_data: Path, tmp_path: Path) -> None:
    sound, rate = soundfile.read(test_data / "calls" / "made" / "made-02-stereo.wav", dtype="int16", always_2d=True)
    path = tmp_path / "brought.wav"
    soundfile.write(path, sound[: 21 * rate], rate)
    url = f"http://127.0.0.1:{stack.ports['CALLTIDE_WEB__PORT']}/api/v1"
    with httpx.Client(base_url=url, timeout=60) as client:

        def settled(task_id: str) -> dict[str, Any]:
            until(lambda: client.get(f"/tasks/{task_id}").json()["state"] not in ("pending", "processing"), task_id)
            return dict(client.get(f"/tasks/{task_id}").json())

        with path.open("rb") as file:
            answer = client.post("/calls", files={"file": ("brought.wav", file)}, data={"queue": "uploads"})
        assert answer.status_code == 202, answer.text
        task = settled(answer.json()["task_id"])
        assert (task["state"], task["error"]) == ("completed", None)
        assert set(task["progress"].values()) == {1.0}
        (call_id,) = task["calls"]
        whole = client.get(f"/calls/{call_id}/export").json()
        assert whole["call"]["state"] == "ended"
        heard = [(said["channel"], said["start_ms"], said["text"]) for said in whole["utterances"]]
        assert {channel for channel, _, _ in heard} == {0, 1}
        assert client.get(f"/calls/{call_id}/export", params={"format": "pdf"}).content.startswith(b"%PDF-")
        assert "-->" in client.get(f"/calls/{call_id}/export", params={"format": "vtt"}).text

        begun = [client.post(f"/calls/{call_id}/analyze"), client.post(f"/analyze/{call_id}")]
        assert [one.status_code for one in begun] == [202, 200]
        (task_id,) = {one.json()["task_id"] for one in begun}
        task = settled(task_id)
        assert (task["state"], task["error"], task["kind"]) == ("completed", None, "analyze")
        again = client.get(f"/calls/{call_id}/export", params={"version": task["version"]}).json()
        assert [(said["channel"], said["start_ms"], said["text"]) for said in again["utterances"]] == heard
        assert {said["score"] for said in again["utterances"]} == {said["score"] for said in whole["utterances"]}
        assert again["call"]["pipeline_version"] == task["version"]
        assert set(again["call"]["versions"]) == {whole["call"]["pipeline_version"], task["version"]}
