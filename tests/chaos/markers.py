"""Does the embedded broker, killed while transactions are being committed, write their markers when it starts again?

`python -m tests.chaos.markers --kills 12`: ten producers commit transactions without a pause, the broker is killed with
-9 and started again, and its log is searched for transactions that it called complete without telling their partitions
(docs/chaos.md). Exit code 1 if there is one. To be run for every Kafka version that deploy/kafka/jars.json is to name.
"""

import argparse
import os
import random
import signal
import sys
import tempfile
import threading
import time
from pathlib import Path
from typing import Final

from confluent_kafka import Consumer, KafkaException, Producer, TopicPartition
from confluent_kafka.admin import AdminClient, NewTopic

from deploy.broker import KAFKA_VERSION, Broker
from streams.settings import load
from tests.chaos.observers import until

PRODUCERS: Final = 10
PARTITIONS: Final = 16
TOPIC: Final = "written"
SKIPPED: Final = "likely deleted already and hence can be skipped"
"""What the transaction coordinator logs, with the partitions and the transactional id."""
WORKS: Final = 50
"""Transactions after which the broker is taken to work again."""


class _Writers:
    """Producers in threads; each transaction holds one record and one committed offset, as a stage's does."""

    def __init__(self, bootstrap: str) -> None:
        self.common = {"bootstrap.servers": bootstrap, "log_level": 0}
        self.committed = 0
        for number in range(PRODUCERS):
            threading.Thread(target=self._run, args=(number,), daemon=True).start()

    def _run(self, number: int) -> None:
        chance = random.Random(number)
        while True:
            producer = Producer(
                self.common
                | {
                    "transactional.id": f"writer-{number}",
                    "transaction.timeout.ms": 6_000,
                    "retry.backoff.ms": 5,
                    "metadata.recovery.strategy": "none",
                    "error_cb": lambda _error: None,
                }
            )
            group = Consumer(self.common | {"group.id": f"writer-{number}"}).consumer_group_metadata()
            try:
                producer.init_transactions(30)
                while True:
                    producer.begin_transaction()
                    producer.produce(TOPIC, b"x" * 500, partition=chance.randrange(PARTITIONS))
                    place = TopicPartition(TOPIC, chance.randrange(PARTITIONS), self.committed)
                    producer.send_offsets_to_transaction([place], group, 30)
                    producer.commit_transaction(30)
                    self.committed += 1
            except KafkaException:
                time.sleep(0.2)  # the broker is away


def main() -> int:
    """0 if every transaction got its markers."""
    parser = argparse.ArgumentParser(prog="python -m tests.chaos.markers")
    parser.add_argument("--kills", type=int, default=12)
    kills, chance = parser.parse_args().kills, random.Random(1)
    with (
        tempfile.TemporaryDirectory() as home,
        Broker(Path(home), port=0, jars=load().directory / "kafka" / "jars") as broker,
    ):
        admin = AdminClient({"bootstrap.servers": broker.bootstrap_servers, "log_level": 0})
        admin.create_topics([NewTopic(TOPIC, PARTITIONS, 1)])[TOPIC].result(30)
        writers = _Writers(broker.bootstrap_servers)
        for kill in range(1, kills + 1):
            time.sleep(chance.uniform(0.5, 1.5))
            assert broker.pid is not None
            os.kill(broker.pid, signal.SIGKILL)
            until(lambda: not broker.running, 10, lambda: None)
            broker.restart()
            before = writers.committed
            if not until(lambda before=before: writers.committed >= before + WORKS, 120, lambda: None):  # type: ignore[misc]
                print("no transaction comes through any more")
            skipped = broker.log.read_text().count(SKIPPED)
            print(f"Kafka {KAFKA_VERSION}, kill {kill}: {skipped} transactions without markers so far", flush=True)
    return 1 if skipped else 0


if __name__ == "__main__":
    sys.exit(main())
