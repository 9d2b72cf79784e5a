"""The messages that a client may make of an approved text, as hashes that the gate compares."""

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass

from vaultbrix.ddl.parse.text import TRIMMED, Piece

# A text of n statements may begin a message at this many comments divided by n, before each; at three at least.
COMMENT_STARTS = 200


@dataclass(frozen=True, slots=True)
class Run:
    """A contiguous run of statements, 1-based and inclusive, and the hash the gate compares."""

    first: int
    last: int
    sha256: bytes


def normalise(text: str) -> str:
    """CRLF to LF, then white space and semicolons trimmed at both ends, as ``vaultbrix.norm`` does in SQL."""
    return text.replace("\r\n", "\n").strip(TRIMMED)


def digest(text: str) -> bytes:
    """sha256 of the normalised text in UTF-8."""
    return hashlib.sha256(normalise(text).encode()).digest()


def runs(text: str, pieces: Sequence[Piece]) -> list[Run]:
    """Every contiguous run of statements that a client may send as one message, and the whole text as it is.

    At most 20,100 for 200 statements without comments between them, four times that with many.
    """
    most = max(3, COMMENT_STARTS // len(pieces))
    messages: dict[Run, None] = {}
    for first, piece in enumerate(pieces):
        for start in sorted(_message_starts(piece, most)):
            # One pass over the rest of the text: neither end of a run has anything that is trimmed.
            hashed, at = hashlib.sha256(), start
            for last in range(first, len(pieces)):
                stop = pieces[last].stop
                hashed.update(text[at:stop].replace("\r\n", "\n").encode())
                at = stop
                messages[Run(first + 1, last + 1, hashed.digest())] = None
    # With whatever comments stand before the first statement and after the last.
    messages[Run(1, len(pieces), digest(text))] = None
    return list(messages)


def _message_starts(piece: Piece, most: int) -> set[int]:
    """Where a message may begin whose first statement is this one: at the statement, or at a comment before it.

    psql sends a C comment that stands before a statement but drops a ``--`` comment; others send both; migration
    tools drop comments of their own at the beginning. Of too many comments the first ones and the last one count.
    """
    comments = piece.comments
    if len(comments) > most:
        comments = (*comments[: most - 2], comments[-1])
    first_c = () if piece.c_comment is None else (piece.c_comment,)
    return {piece.start, *comments, *first_c}
