"""The authorizer as ``vaultbrix gateway`` serves it, as a process, with one tenant and keys in its memory."""

import sys
from datetime import UTC, datetime
from pathlib import Path

import uvloop
from prometheus_client import CollectorRegistry
from tests.harness.known_keys import DOMAIN, KnownInMemory
from tests.harness.postgrest import SECRET

from vaultbrix.api.apikey import KeyKind
from vaultbrix.gateway.app import Authorizer
from vaultbrix.gateway.decisions import Settings
from vaultbrix.gateway.main import serve
from vaultbrix.runtime.process import run

SLUG = "acme"
KEYS = 1000


def known() -> tuple[KnownInMemory, str]:
    """What it knows, and the text of one of its keys."""
    made = KnownInMemory()
    made.add_tenant(SLUG)
    texts = [made.add_key(SLUG, KeyKind.SECRET) for _ in range(KEYS)]
    return made, texts[KEYS // 2]


if __name__ == "__main__":
    authorizer = Authorizer(
        known()[0], Settings(DOMAIN, SECRET), lambda: datetime.now(UTC), metrics=CollectorRegistry()
    )
    run(serve(authorizer, socket=Path(sys.argv[1])), new_event_loop=uvloop.new_event_loop)
