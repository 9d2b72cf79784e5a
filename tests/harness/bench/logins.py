"""Logs in so many times one after the other: ``python logins.py CONNINFO COUNT`` prints how long each took, as JSON.

A login that is refused is tried again at once, and its time is that until it was let in. ``refused`` counts what
PostgreSQL refused, ``late`` what it did not answer in time, ``said`` is what it said of the latest.
"""

import json
import sys
import time

import psycopg


def main(conninfo: str, count: int) -> None:
    took, refused, late, said = [], 0, 0, ""
    for _ in range(count):
        begun = time.perf_counter()
        while True:
            try:
                psycopg.connect(conninfo, connect_timeout=20).close()
                break
            except psycopg.OperationalError as error:
                said = str(error)
                refused += "FATAL" in said
                late += "FATAL" not in said
        took.append(time.perf_counter() - begun)
        time.sleep(0.05)
    print(json.dumps({"seconds": took, "refused": refused, "late": late, "said": said}))


if __name__ == "__main__":
    main(sys.argv[1], int(sys.argv[2]))
