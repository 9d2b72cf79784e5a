"""A client in its own network namespace: says when it got in, and when its session ended (seconds since the epoch)."""

import sys
import time

import psycopg


def main(conninfo: str) -> None:
    print("ready", flush=True)
    while True:
        try:
            connection = psycopg.connect(conninfo)
            break
        except psycopg.OperationalError:
            continue
    print(time.time(), flush=True)
    try:
        connection.execute("SELECT pg_sleep(600)")
    except psycopg.Error:
        print(time.time(), flush=True)


if __name__ == "__main__":
    main(sys.argv[1])
