"""What is said in calls, as Calltide scores it, from its websocket gateway."""

from calltide_client.messages import Message, Subscription
from calltide_client.stream import Disconnected, Refused, Stream

__all__ = ["Disconnected", "Message", "Refused", "Stream", "Subscription"]
