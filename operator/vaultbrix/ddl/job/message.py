"""How an approved statement is sent: as one statement, in the encoding that it was read in; and what it swallowed."""

import psycopg

REFUSED_STATE = "VBX01"


def send(connection: psycopg.Connection, text: str) -> None:
    """Send one statement, byte for byte. Raises psycopg.Error.

    What ran before may have changed ``client_encoding``, in which the server might see the end of a constant where the
    parser saw none; and by the extended protocol a message is one command, or refused (PostgreSQL 55.2.3).
    """
    connection.execute("SET client_encoding = 'UTF8'")
    # Without parameters psycopg uses that protocol for results in binary only.
    connection.execute(text.encode(), binary=True)


class Refusals:
    """Hears of what the gate refuses to a connection, also where a block of the text catches the error.

    ``swallowed`` says in words what was refused while no error came; empty where nothing was.
    """

    def __init__(self, connection: psycopg.Connection) -> None:
        self.swallowed = ""
        connection.add_notice_handler(self._hear)

    def _hear(self, notice: psycopg.errors.Diagnostic) -> None:
        if notice.sqlstate == REFUSED_STATE and not self.swallowed:
            self.swallowed = f"{notice.message_primary or ''} by the gate, and the text caught the error"[:1024]
