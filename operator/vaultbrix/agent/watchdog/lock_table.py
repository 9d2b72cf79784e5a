"""How much of PostgreSQL's lock table tenants may fill, and how soon and how closely it is looked at again. Pure.

Tenants may fill a quarter of it. The next look comes before half of it can be filled, and what can be taken while that
look and what follows from it take their time fits into the other half: ``most_until_told`` is the sum, and
docs/limits.md has it in figures.
"""

import math

# The most that all sessions take together in a second, twice what was measured: one session takes 540,000, and several
# no more than that together, since they wait for each other at the table (docs/limits.md).
TAKEN_PER_SECOND = 1_000_000
# What a look costs PostgreSQL for each lock that it sees; 0.55 us were measured.
SECONDS_PER_LOCK = 0.6e-6
# From the end of a look that sees too much until those who took it were told to end.
SECONDS_UNTIL_TOLD = 0.02
SHORTEST_PAUSE = 0.02
LONGEST_PAUSE = 0.1
# The smallest room for which ``most_until_told`` is no more than there is.
ENOUGH_ROOM = 200_000
# A look sees no more locks than that, or than a quarter more than there were.
FEWEST_SEEN = 20_000
# Another one, where that was not enough, so many times as many.
SEEN_AGAIN = 4


def tenants_part(room: int) -> int:
    """Return how many locks all tenants may hold together, of so many that there is room for."""
    return room // 4


def pause(seen: int, room: int) -> float:
    """Return the seconds from a look that saw so many locks until the next one.

    No more than half of a processor goes into looks at locks that are there and stay. That counts by what there is to
    see, not by how long the look took: it takes long while the machine is busy with an attack, which must not get a
    longer pause for that.
    """
    until_half = (room // 2 - seen) / TAKEN_PER_SECOND
    return max(SHORTEST_PAUSE, seen * SECONDS_PER_LOCK, min(LONGEST_PAUSE, until_half))


def most_to_see(seen: int) -> int:
    """Return how many locks a look sees at most, after one that saw so many.

    Attackers decide how many there are, and would decide how long a look takes.
    """
    return max(FEWEST_SEEN, seen * 5 // 4)


def most_until_told(seen: int, room: int) -> float:
    """Return how many locks there may be, after a look that saw so many, once those who took them were told to end.

    The worst is that locks are of so many tenants that every one has to be seen, in the last of several looks.
    """
    at_next_look = seen + TAKEN_PER_SECOND * pause(seen, room)
    looking = at_next_look * SECONDS_PER_LOCK * SEEN_AGAIN / (SEEN_AGAIN - 1)
    return at_next_look + TAKEN_PER_SECOND * (looking + SECONDS_UNTIL_TOLD)


def locks_per_transaction(slots: int) -> int:
    """Return the max_locks_per_transaction with which there is enough room.

    ``slots``: max_connections and max_prepared_transactions.
    """
    return math.ceil(ENOUGH_ROOM / slots)
