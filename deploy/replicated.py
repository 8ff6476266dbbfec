"""The schema for a cluster of ClickHouse servers: the tables of the migrations with replicated engines, ON CLUSTER.

A changer must know: it is made from what the migrations make, so it holds whatever they are. The committed copy is
docs/clickhouse-replicated.sql; `pytest tests/clickhouse/test_migrations.py` compares the two and says what is new.
"""

import re

from clickhouse_connect.driver.client import Client

CLUSTER = "{cluster}"
"""ClickHouse's own macro: each server's configuration says what its cluster is called."""


def replicated(client: Client) -> str:
    """The statements that make, on every server of a cluster, what `client`'s migrated database has."""
    database = client.command("SELECT currentDatabase()")
    sql = """SELECT name FROM system.tables WHERE database = currentDatabase()
        ORDER BY engine = 'MaterializedView', engine = 'View', name = 'utterances_heard' DESC, name"""
    statements = [f"CREATE DATABASE IF NOT EXISTS calltide ON CLUSTER '{CLUSTER}'"]
    for (name,) in client.query(sql).result_rows:
        ddl = (
            client.raw_query(f"SHOW CREATE TABLE {name}", fmt="TSVRaw")
            .decode()
            .strip()
            .replace(f"{database}.", "calltide.")
        )
        kind = "MATERIALIZED VIEW|VIEW|TABLE"
        ddl = re.sub(rf"^CREATE ({kind}) (\S+)", rf"CREATE \1 IF NOT EXISTS \2 ON CLUSTER '{CLUSTER}'", ddl)
        # Without a path: the server's default has the table's UUID in it, which outlives a rename.
        ddl = re.sub(r"\nENGINE = (\w*MergeTree)", r"\nENGINE = Replicated\1", ddl)
        ddl = ddl.replace("non_replicated_deduplication_window", "replicated_deduplication_window")
        statements.append(
            re.sub(r"(?<=[\n ])SETTINGS index_granularity = 8192$|, index_granularity = 8192$", "", ddl).rstrip()
        )
    done = client.query(
        "SELECT number, name, toString(sha256) FROM schema_migrations FINAL ORDER BY number"
    ).result_rows
    rows = ",\n    ".join(f"({number}, '{name}', '{digest}')" for number, name, digest in done)
    statements.append(f"INSERT INTO calltide.schema_migrations (number, name, sha256) VALUES\n    {rows}")
    return ";\n\n".join(statements) + ";\n"
