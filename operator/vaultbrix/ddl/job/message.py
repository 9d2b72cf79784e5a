"""How an approved statement is sent: as one statement, in the encoding that it was read in; and what it swallowed."""

import re

import psycopg

REFUSED_STATE = "VBX01"
LONGEST_MESSAGE = 1024

# What others need still (PostgreSQL, Appendix A: dependent_objects_still_exist).
_DEPENDENTS_STATE = "2BP01"
# Of a refusal's detail, what comes before the reasons.
_HASH = re.compile(r"\Asha256\(normalised text\) = \w+(?:; )?")


def send(connection: psycopg.Connection, text: str) -> None:
    """Send one statement, byte for byte. Raises psycopg.Error.

    What ran before may have changed ``client_encoding``, in which the server might see the end of a constant where the
    parser saw none; and by the extended protocol a message is one command, or refused (PostgreSQL 55.2.3).
    """
    connection.execute("SET client_encoding = 'UTF8'")
    # Without parameters psycopg uses that protocol for results in binary only.
    connection.execute(text.encode(), binary=True)


def describe(state: str, message: str, detail: str | None) -> str:
    """PostgreSQL's message; where objects would be lost or stand in the way, with the detail, which names them.

    Any other error's detail is left out: it may show a row. At most 1024 characters.
    """
    named = ""
    if state == REFUSED_STATE:
        named = _HASH.sub("", detail or "")
    elif state == _DEPENDENTS_STATE:
        named = ", ".join((detail or "").splitlines())
    return "; ".join(filter(None, (message, named)))[:LONGEST_MESSAGE]


class Refusals:
    """Hears of what the gate refuses to a connection, also where a block of the text catches the error.

    ``swallowed`` says in words what was refused while no error came; empty where nothing was.
    """

    def __init__(self, connection: psycopg.Connection) -> None:
        self.swallowed = ""
        connection.add_notice_handler(self._hear)

    def _hear(self, notice: psycopg.errors.Diagnostic) -> None:
        if notice.sqlstate == REFUSED_STATE and not self.swallowed:
            self.swallowed = f"{notice.message_primary or ''} by the gate, and the text caught the error"[
                :LONGEST_MESSAGE
            ]
