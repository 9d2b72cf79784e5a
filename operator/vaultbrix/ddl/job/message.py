"""How an approved statement is sent: as one statement, in the encoding that it was read in."""

import psycopg


def send(connection: psycopg.Connection, text: str) -> None:
    """Send one statement, byte for byte. Raises psycopg.Error.

    What ran before may have changed ``client_encoding``, in which the server might see the end of a constant where the
    parser saw none; and by the extended protocol a message is one command, or refused (PostgreSQL 55.2.3).
    """
    connection.execute("SET client_encoding = 'UTF8'")
    # Without parameters psycopg uses that protocol for results in binary only.
    connection.execute(text.encode(), binary=True)
