"""Print what is said, as it is scored: `python examples/subscribe.py [ws://127.0.0.1:8765/v1/scores?queue=billing]`.

Needs the package `websockets` alone. It goes on after a lost connection, with nothing missed and nothing printed twice.
"""

import json
import sys
import time
from urllib.parse import quote

from websockets.exceptions import ConnectionClosed
from websockets.sync.client import connect

url = sys.argv[1] if len(sys.argv) > 1 else "ws://127.0.0.1:8765/v1/scores"
cursor = None
while True:
    resume = f"{'&' if '?' in url else '?'}from={quote(cursor)}" if cursor else ""
    try:
        with connect(url + resume) as gateway:
            for message in map(json.loads, gateway):
                cursor = message.get("cursor", cursor)
                event = message.get("event", {})
                if message["type"] == "hello":
                    print("connected, at", cursor, flush=True)
                elif message["type"] == "score" and event["sentiment"]:
                    print(f"{event['role']:<8} {event['sentiment']['score']:+.2f}  {event['text']}", flush=True)
                else:
                    print(message["type"], message.get("message", ""), flush=True)
    except (ConnectionClosed, OSError) as error:
        print("lost the gateway:", error, file=sys.stderr)
    time.sleep(1)
