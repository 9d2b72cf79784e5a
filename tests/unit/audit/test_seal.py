"""Seals are those of the RFCs, so that anybody can check them without this product."""

import hashlib
from datetime import UTC, datetime

import pytest

from vaultbrix.audit import seal
from vaultbrix.audit.evidence.findings import Fault, Signed, of_batch
from vaultbrix.audit.seal import NO_PREVIOUS, Header, Part, Signer, batch_root, identity, leaf, path, root, root_of_path

LEAVES = [hashlib.sha256(bytes([number])).digest() for number in range(70)]
SIZES = range(1, len(LEAVES) + 1)


def rfc6962(leaves: list[bytes]) -> bytes:
    """MTH of RFC 6962 2.1, word for word, from leaf hashes on."""
    if len(leaves) == 1:
        return leaves[0]
    split = 1
    while split * 2 < len(leaves):
        split *= 2
    return hashlib.sha256(b"\x01" + rfc6962(leaves[:split]) + rfc6962(leaves[split:])).digest()


def header(**changed: object) -> Header:
    fields = {
        "server": "main",
        "batch": 7,
        "sealed_at": datetime(2026, 12, 1, 18, 0, tzinfo=UTC),
        "file": "postgresql-2026-12-01_170000.json",
        "start": 10,
        "stop": 20,
        "parts": 1,
        "previous": NO_PREVIOUS,
        "root": LEAVES[0],
        **changed,
    }
    return Header(**fields)  # type: ignore[arg-type]


def test_the_root_is_that_of_rfc_6962() -> None:
    for size in SIZES:
        assert root(LEAVES[:size]) == rfc6962(LEAVES[:size])
    assert root([]) == hashlib.sha256(b"").digest()


def test_every_leaf_has_a_path_that_leads_to_the_root_and_no_other_does() -> None:
    for size in SIZES:
        leaves = LEAVES[:size]
        top = root(leaves)
        for index in range(size):
            siblings = path(leaves, index)
            assert root_of_path(leaves[index], index, size, siblings) == top
            assert root_of_path(LEAVES[-1] if index != 69 else LEAVES[0], index, size, siblings) != top
            assert root_of_path(leaves[index], index, size, [*siblings, top]) is None
            if siblings:
                assert root_of_path(leaves[index], index, size, siblings[:-1]) is None
        assert root_of_path(leaves[0], size, size, []) is None
        assert root_of_path(leaves[0], -1, size, []) is None


def test_a_leaf_is_salted_and_is_no_inner_node() -> None:
    salt = bytes(seal.SALT_BYTES)
    assert leaf(salt, b"line") == hashlib.sha256(b"\x00" + salt + b"line").digest()
    assert leaf(salt, b"line") != leaf(b"1" * seal.SALT_BYTES, b"line")


def test_the_header_reads_the_same_for_ever() -> None:
    assert header().text().decode() == (
        "vaultbrix audit batch 1\n"
        "server main\n"
        "batch 7\n"
        "sealed 2026-12-01T18:00:00.000000+00:00\n"
        "bytes 10 20 postgresql-2026-12-01_170000.json\n"
        "parts 1\n"
        f"previous {'00' * 32}\n"
        f"root {LEAVES[0].hex()}\n"
    )
    assert header().head() == hashlib.sha256(header().text()).digest()


@pytest.mark.parametrize("field", ["server", "file"])
def test_no_name_can_make_one_header_read_as_another(field: str) -> None:
    with pytest.raises(ValueError, match="line end"):
        header(**{field: "a\nbatch 8"}).text()


def test_parts_are_bound_by_name_and_size() -> None:
    part = Part(2, LEAVES[0])
    assert batch_root({"gap": part}) != batch_root({"quarantine": part})
    assert batch_root({"gap": part}) != batch_root({"gap": Part(3, LEAVES[0])})
    assert batch_root({"a": part, "b": part}) == batch_root({"b": part, "a": part})


def test_a_signature_is_of_one_header_by_one_key() -> None:
    private, public = seal.new_key()
    _, other = seal.new_key()
    signer = Signer(private.encode())
    keys = seal.public_keys((other + public).encode())
    assert set(keys) == {identity(key) for key in keys.values()}
    signature = signer.sign(header())
    assert seal.signed(header(), signature, signer.identity, keys)
    assert not seal.signed(header(batch=8), signature, signer.identity, keys)
    assert not seal.signed(header(), signature, signer.identity, seal.public_keys(other.encode()))


@pytest.mark.parametrize("pem", [b"", b"-----BEGIN PUBLIC KEY-----\nAAAA\n-----END PUBLIC KEY-----\n"])
def test_what_is_no_key_is_said_so(pem: bytes) -> None:
    with pytest.raises(ValueError, match=r"."):
        seal.public_keys(pem)


def test_a_key_is_good_for_the_servers_that_stand_above_it_and_without_any_for_all() -> None:
    signers = {}
    pem = ""
    for marks in ("server: main\n", "server: db1\nserver: db2\n", ""):
        private, public = seal.new_key()
        signers[marks] = Signer(private.encode())
        pem += f"{marks}{public}"
    keys = seal.public_keys(pem.encode())
    good = {
        (marks, server)
        for marks, signer in signers.items()
        for server in ("main", "db1", "db2", "other")
        for signed in [header(server=server)]
        if seal.signed(signed, signer.sign(signed), signer.identity, keys)
    }
    assert good == {
        ("server: main\n", "main"),
        ("server: db1\nserver: db2\n", "db1"),
        ("server: db1\nserver: db2\n", "db2"),
        *(("", server) for server in ("main", "db1", "db2", "other")),
    }
    stolen = signers["server: main\n"]
    found = header(server="db1", parts=0, root=batch_root({}))
    findings = of_batch(Signed(found, stolen.identity, stolen.sign(found), {}), keys)
    assert [finding.fault for finding in findings] == [Fault.UNKNOWN_KEY]
