"""Logs in so many times one after the other: ``python logins.py CONNINFO COUNT`` prints how long each took, as JSON.

A login that is refused is tried again at once, and its time is that until it was let in.
"""

import json
import sys
import time

import psycopg


def main(conninfo: str, count: int) -> None:
    took, refused = [], 0
    for _ in range(count):
        begun = time.perf_counter()
        while True:
            try:
                psycopg.connect(conninfo, connect_timeout=5).close()
                break
            except psycopg.OperationalError:
                refused += 1
        took.append(time.perf_counter() - begun)
        time.sleep(0.05)
    print(json.dumps({"seconds": took, "refused": refused}))


if __name__ == "__main__":
    main(sys.argv[1], int(sys.argv[2]))
