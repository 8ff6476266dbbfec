"""Write a summary of each call into a CRM: `CRM_SECRET=whsec_… HUBSPOT_TOKEN=… python examples/crm.py --hubspot URL`.

It receives Calltide's webhooks of the kind `insights` (docs/webhooks.md) and needs the packages `requests` and
`standardwebhooks`. An event may come twice, so nothing is created blindly: both CRMs are told the call's id and write
over what they have of it. What the CRM answers decides what Calltide is answered: where it is away or busy (5xx, 429)
the event comes again, what it refuses becomes a dead letter.
"""

import argparse
import os
import sys
from collections.abc import Callable
from functools import partial
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any
from urllib.parse import quote

import requests
from standardwebhooks import Webhook, WebhookVerificationError

LONGEST_BODY = 10_000_000
ANSWER_S = 8  # Calltide waits 10 s for this program
SALESFORCE = "/services/data/v62.0/sobjects/Task/Calltide_Call__c/"
SUBJECT_LETTERS = 255

Ask = Callable[[str, str, dict[str, Any]], Any]
"""Method, path and body of a request to the CRM → its answer."""
Target = tuple[Callable[[dict[str, Any], Ask], None], str, str]
"""What writes an event, the CRM's address, and its token."""


def summary(event: dict[str, Any]) -> str:
    """What a person wants to read of a call, as plain text."""
    resolved = {"yes": "settled", "no": "not settled"}.get(event["resolution"]["resolved"], "not known")
    parts = [
        ("Reason", [event["reason"]["text"]] if event["reason"] else []),
        ("Summary", [one["text"] for one in event["summary"]]),
        ("Topics", [" › ".join(one["path"]) for one in event["topics"]]),
        ("What was wrong", [one["text"] for one in event["issues"]]),
        ("Promised", [f"{one['owner']}: {one['text']} {one['due']}".strip() for one in event["action_items"]]),
        ("The matter", [resolved]),
    ]
    return "\n".join(f"{title}: {'; '.join(lines)}" for title, lines in parts if lines)


def key_of(event: dict[str, Any]) -> str:
    """What a call is known by in the CRM: ids are unique in a tenant."""
    return f"{event['call']['tenant']}/{event['call']['call_id']}"


def to_hubspot(event: dict[str, Any], ask: Ask) -> None:
    """A call by its unique property `calltide_call`; then, if a contact is known, the two belong together."""
    call = event["call"]
    properties = {
        "calltide_call": key_of(event),
        "hs_timestamp": call["started_at"],
        "hs_call_title": f"Call {call['call_id']}",
        "hs_call_body": summary(event),
        "hs_call_duration": str(event["duration_ms"]),
        "hs_call_status": "COMPLETED",
    }
    inputs = [{"idProperty": "calltide_call", "id": key_of(event), "properties": properties}]
    answer = ask("POST", "/crm/v3/objects/calls/batch/upsert", {"inputs": inputs})
    if contact := call["metadata"].get("crm_contact"):
        made = answer["results"][0]["id"]
        ask("PUT", f"/crm/v4/objects/calls/{made}/associations/default/contacts/{quote(contact, safe='')}", {})


def to_salesforce(event: dict[str, Any], ask: Ask) -> None:
    """A task that is a finished call, by its external id `Calltide_Call__c`."""
    call = event["call"]
    reason = event["reason"]["text"] if event["reason"] else call["call_id"]
    task = {
        "Subject": f"Call: {reason}"[:SUBJECT_LETTERS],
        "Description": summary(event),
        "TaskSubtype": "Call",
        "Status": "Completed",
        "ActivityDate": call["started_at"][:10],
        "CallDurationInSeconds": event["duration_ms"] // 1_000,
        "CallObject": call["call_id"],
    }
    if contact := call["metadata"].get("crm_contact"):
        task["WhoId"] = contact
    ask("PATCH", SALESFORCE + quote(key_of(event), safe=""), task)


def ask(crm: str, token: str, method: str, path: str, body: dict[str, Any]) -> Any:
    """The answer of a CRM. Raises requests.HTTPError for one that does not say that all is done."""
    headers = {"Authorization": f"Bearer {token}"}
    answer = requests.request(method, crm + path, json=body, headers=headers, timeout=ANSWER_S, allow_redirects=False)
    # 207: HubSpot has refused some of it.
    if answer.status_code not in (200, 201, 204):
        raise requests.HTTPError(f"{crm} answers {answer.status_code}", response=answer)
    return answer.json() if answer.content else None


def server(port: int, secret: str, targets: list[Target]) -> ThreadingHTTPServer:
    """A receiver that writes what comes to all targets."""
    webhook = Webhook(secret)

    class Receiver(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            length = int(self.headers.get("Content-Length", 0))
            if length > LONGEST_BODY:
                return self.answer(413)
            try:
                told = webhook.verify(self.rfile.read(length).decode(), dict(self.headers.items()))
            except (WebhookVerificationError, ValueError):
                return self.answer(401)  # not from Calltide, or minutes old
            if told["type"] != "insights" or told["data"]["state"] != "ok":
                return self.answer(204)
            try:
                for write, crm, token in targets:
                    write(told["data"], partial(ask, crm, token))
            except requests.HTTPError as error:
                print(f"{key_of(told['data'])}: {error}", file=sys.stderr, flush=True)
                status = error.response.status_code
                return self.answer(status if status == 429 else 502 if status >= 500 else 422, error.response.headers)
            except requests.RequestException as error:
                print(f"{key_of(told['data'])}: {error}", file=sys.stderr, flush=True)
                return self.answer(502)
            print(f"{key_of(told['data'])}: written", flush=True)
            return self.answer(204)

        def answer(self, status: int, asked: Any = None) -> None:
            self.send_response(status)
            if wait := (asked or {}).get("Retry-After"):
                self.send_header("Retry-After", wait)
            self.send_header("Content-Length", "0")
            self.end_headers()

        def log_message(self, *_: Any) -> None:
            """Not every request."""

    return ThreadingHTTPServer(("127.0.0.1", port), Receiver)


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n\n")[0])
    parser.add_argument("--hubspot", help="https://api.hubapi.com; its token is HUBSPOT_TOKEN")
    parser.add_argument("--salesforce", help="https://NAME.my.salesforce.com; its token is SALESFORCE_TOKEN")
    parser.add_argument("--port", type=int, default=8790)
    arguments = parser.parse_args()
    targets = [
        (write, url.rstrip("/"), os.environ[token])
        for write, url, token in (
            (to_hubspot, arguments.hubspot, "HUBSPOT_TOKEN"),
            (to_salesforce, arguments.salesforce, "SALESFORCE_TOKEN"),
        )
        if url
    ]
    if not targets:
        parser.error("give --hubspot or --salesforce")
    with server(arguments.port, os.environ["CRM_SECRET"], targets) as receiver:
        print(f"listening on http://127.0.0.1:{arguments.port}/", flush=True)
        receiver.serve_forever()


if __name__ == "__main__":
    main()
