"""What opening a door costs at least: pg_hba.conf written as safely as the agent does, reloaded, an address added.

Reads the content on standard input; prints the seconds of each round.
"""

import os
import sys
import time
from pathlib import Path

import psycopg
from pyroute2 import IPSet


def main(directory: str, file: str, rounds: str) -> None:
    content, path = sys.stdin.buffer.read(), Path(file)
    where = {"host": directory, "port": 5433, "user": "postgres", "dbname": "postgres", "autocommit": True}
    with psycopg.connect(**where) as connection, IPSet() as ipset:
        for number in range(int(rounds)):
            begun = time.perf_counter()
            with path.with_suffix(".new").open("wb") as new:
                new.write(content)
                new.flush()
                os.fsync(new.fileno())
            path.with_suffix(".new").rename(path)
            connection.execute("SELECT pg_reload_conf()")
            ipset.add("floor", f"192.0.2.{number % 250}", etype="net", exclusive=False, timeout=600)
            print(time.perf_counter() - begun)


if __name__ == "__main__":
    main(*sys.argv[1:])
