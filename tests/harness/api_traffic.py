"""Clients of several tenants that ask the data API all the time, and what none of them may ever be answered."""

import contextlib
import threading
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field

from tests.harness.http_messages import Answer
from tests.harness.shell import wait_for

# PostgreSQL or a proxy cut it off, or cannot answer now; PostgREST 12 says 400 for the former.
CUT_OFF = {400, 500, 503, 504}


@dataclass
class Seen:
    """What clients of each tenant were answered, by tenant and status; ``wrong`` are answers that nobody may get."""

    answers: Counter[tuple[str, int]] = field(default_factory=Counter)
    wrong: list[Answer] = field(default_factory=list)

    def of(self, status: int, tenant: str = "") -> int:
        """How often a tenant, or any of them, was answered so."""
        return sum(n for (who, code), n in self.answers.items() if code == status and tenant in ("", who))


@contextlib.contextmanager
def traffic(ask: Mapping[str, Callable[[], Answer]], *, each: int = 2) -> Iterator[Seen]:
    """So many clients of each tenant, which ask without a pause for rows of their own.

    The text of each row of a tenant must begin with its name and ``'s``.
    """
    seen, ended, lock = Seen(), threading.Event(), threading.Lock()

    def go_on(tenant: str) -> None:
        while not ended.is_set():
            answer = ask[tenant]()
            with lock:
                seen.answers[tenant, answer.status] += 1
                if not _is_right(answer, tenant, ask):
                    seen.wrong.append(answer)

    clients = [threading.Thread(target=go_on, args=[tenant]) for tenant in ask for _ in range(each)]
    for client in clients:
        client.start()
    try:
        yield seen
    finally:
        ended.set()
        for client in clients:
            client.join()


def await_answers(seen: Seen, wanted: Callable[[Seen], bool]) -> None:
    """Wait until clients were answered so, counted from now on."""
    before = Counter(seen.answers)
    wait_for("clients are answered", lambda: wanted(Seen(Counter(seen.answers) - before)), tell=lambda: seen)


def _is_right(answer: Answer, tenant: str, tenants: Mapping[str, object]) -> bool:
    """Whether it is the tenant's own rows, or an error in PostgREST's form that says nothing of other tenants."""
    if any(f"{other}'s" in answer.body.decode() for other in tenants if other != tenant):
        return False
    if answer.status == 200:
        return bool(answer.json) and all(row["text"].startswith(f"{tenant}'s") for row in answer.json)
    if not {"code", "message", "details", "hint"} <= set(answer.json) or answer.status not in CUT_OFF:
        return False
    # Without a code, or with one of PostgreSQL's end (57P01 to 57P03).
    return answer.status != 400 or answer.json["code"][:3] in ("", "57P")
