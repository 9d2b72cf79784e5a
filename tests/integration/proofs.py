"""Whether what a store holds is what was sealed, with what erasure may have taken."""

from typing import Any

from tests.harness.store import Store

from vaultbrix.audit import rows, seal
from vaultbrix.audit.erasure import covered, dropped
from vaultbrix.audit.seal import Header, Part

_TABLES = {
    "record": (rows.RECORD, "'record ' || to_char(at AT TIME ZONE 'UTC', 'YYYY-MM-DD') || ' ' || keep"),
    "gap": (rows.GAP, "'gap'::text"),
    "quarantine": (rows.QUARANTINE, "'quarantine'::text"),
    "event": (rows.EVENT, "'event'::text"),
}


def findings(store: Store) -> list[str]:
    """What is wrong, in words; nothing where all is well."""
    erased = covered(_details(store, "redacted"))
    gone = dropped(_details(store, "expired"))
    found: list[str] = []
    leaves: dict[tuple[str, int, str], list[bytes]] = {}
    for table, (columns, part) in _TABLES.items():
        for server, batch, name, index, salt, leaf, line in _lines(store, table, columns, part):
            where = leaves.setdefault((server, batch, name), [])
            if len(where) != index:
                found.append(f"{table} {server} {batch} {name}: {index} follows {len(where)}")
            where.append(leaf)
            if salt is None:
                if (server, batch, name, index) not in erased:
                    found.append(f"{table} {server} {batch} {name} {index}: erased, and no event says so")
            elif seal.leaf(salt, line) != leaf:
                found.append(f"{table} {server} {batch} {name} {index}: changed")
    keys = seal.public_keys(store.public_key.encode())
    heads: dict[str, bytes] = {}
    for *header, signer, signature in store.query(
        "SELECT server, batch, sealed_at, file, start, stop, parts, previous, root, signer, signature FROM audit.batch"
        " ORDER BY server, batch"
    ):
        head = Header(*header)
        if head.previous != heads.get(head.server, seal.NO_PREVIOUS) or not seal.signed(head, signature, signer, keys):
            found.append(f"batch {head.server} {head.batch}: not in its chain")
        heads[head.server] = head.head()
        parts = {
            name: Part(count, bytes(root))
            for name, count, root in store.query(
                "SELECT part, leaves, root FROM audit.part WHERE server = %s AND batch = %s", [head.server, head.batch]
            )
        }
        if seal.batch_root(parts) != head.root or len(parts) != head.parts:
            found.append(f"batch {head.server} {head.batch}: other parts")
        for name, part in parts.items():
            held = leaves.get((head.server, head.batch, name))
            if held is None and (head.server, head.batch, name) in gone:
                continue
            if held is None or len(held) != part.leaves or seal.root(held) != part.root:
                found.append(f"batch {head.server} {head.batch} {name}: {len(held or [])} rows of {part.leaves}")
    return found


def _details(store: Store, kind: str) -> list[dict[str, Any]]:
    # An event counts once it is sealed.
    query = "SELECT detail FROM audit.event WHERE kind = %s AND batch IS NOT NULL"
    return [row[0] for row in store.query(query, [kind])]


def _lines(store: Store, table: str, columns: str, part: str) -> list[tuple[Any, ...]]:
    found = []
    with store.open(options=rows.SETTINGS) as connection:
        where = f"FROM audit.{table} WHERE batch IS NOT NULL ORDER BY server, batch, {part}, leaf_index"
        keys = connection.execute(f"SELECT server, batch, {part}, leaf_index, salt, leaf {where}").fetchall()
        with connection.cursor().copy(f"COPY (SELECT {columns} {where}) TO STDOUT") as copy:
            text = b"".join(bytes(block) for block in copy)
        for key, line in zip(keys, text.split(b"\n")[:-1], strict=True):
            found.append((*key, line))
    return found
