"""Many sessions of one tenant that take locks, each again as soon as it was ended.

``python hoarder.py CONNINFO SESSIONS STATEMENT ...`` runs until it is ended; it prints a line for each session that
ends: the SQLSTATE, or ``refused`` where there was none.
"""

import sys
import threading

import psycopg


def hoard(conninfo: str, statements: list[str]) -> None:
    """Log in, send the statements, and again; whatever they give back is passed over."""
    while True:
        try:
            with psycopg.connect(conninfo, connect_timeout=10, autocommit=True) as connection:
                for statement in statements:
                    connection.execute(statement.encode())
        except psycopg.Error as error:
            # In one piece, or lines of two threads become one.
            sys.stdout.write(f"{error.sqlstate or 'refused'}\n")
            sys.stdout.flush()


def main(conninfo: str, sessions: int, statements: list[str]) -> None:
    threads = [threading.Thread(target=hoard, args=(conninfo, statements), daemon=True) for _ in range(sessions)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()


if __name__ == "__main__":
    main(sys.argv[1], int(sys.argv[2]), sys.argv[3:])
