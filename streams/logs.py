"""Log lines as JSON objects, one a line, with what the caller put into `extra` beside the message.

A changer must know: whatever concerns one record says so by the same names everywhere: `call`, `stage`, `topic`,
`partition`, `offset`.
"""

import json
import logging
import sys
import threading
import traceback
from datetime import UTC, datetime
from typing import Final

_STANDARD: Final = frozenset(vars(logging.makeLogRecord({}))) | {"message", "asctime", "color_message"}
"""What is not the caller's, and uvicorn's second version of its message."""


class _Json(logging.Formatter):
    def format(self, record: logging.LogRecord) -> str:
        line = {
            "at": datetime.fromtimestamp(record.created, UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z"),
            "level": record.levelname.lower(),
            "logger": record.name,
            "message": record.getMessage(),
        }
        line |= {name: value for name, value in vars(record).items() if name not in _STANDARD}
        if record.exc_info:
            line["exception"] = "".join(traceback.format_exception(*record.exc_info))
        return json.dumps(line, ensure_ascii=False, default=str)


def to_stderr(level: str) -> None:
    """Log to stderr from now on; warnings of Python and exceptions that end a thread, too."""
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(_Json())
    logging.basicConfig(level=level.upper(), handlers=[handler], force=True)
    logging.captureWarnings(True)
    threading.excepthook = _thread_ended


def _thread_ended(end: threading.ExceptHookArgs) -> None:
    if end.exc_type is not SystemExit:
        what = (end.exc_type, end.exc_value or end.exc_type(), end.exc_traceback)
        name = end.thread.name if end.thread else "unknown"
        logging.getLogger(__name__).critical("the thread %s ended by an exception", name, exc_info=what)
