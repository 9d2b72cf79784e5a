import re
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from vaultbrix.agent.host.hba import HbaFile
from vaultbrix.agent.host.hba_text import HBA_BEGIN, HBA_END, Admin, hba_block, hba_quote, splice_hba
from vaultbrix.api.login_names import second_login

BLOCK = hba_block(database="app", pairs=[("tenant_acme", "203.0.113.7/32")], trusted=["10.0.0.0/16"])
OTHER = hba_block(database="app", pairs=[], trusted=[])
OPEN = hba_block(
    database="app", pairs=[("tenant_acme", "203.0.113.7/32")], trusted=["10.0.0.0/16"], probe="vaultbrix_probe_1"
)
# Database ``all`` matches no physical replication (PostgreSQL, 21.1).
REJECTED = [
    "local all,replication +vaultbrix_tenants,+vaultbrix_rest reject",
    "host all,replication +vaultbrix_tenants,+vaultbrix_rest,vaultbrix_agent all reject",
]
# As an agent of before wrote it.
EARLIER = f"""{HBA_BEGIN}
# Written by vaultbrix agent; edits between these marks are lost.
host all "postgres" all reject
local all +vaultbrix_tenants reject
host all +vaultbrix_tenants all reject
"""

FOREIGN = [
    "",
    "local all postgres peer\n",
    "# a comment\nhost all all 127.0.0.1/32 scram-sha-256\n",
    "host all all 127.0.0.1/32 trust",
    "host all all 127.0.0.1/32 trust\r\n# CRLF\r\n",
    "\n\n  \t\n",
    f"# see {HBA_BEGIN} for more\nlocal all all peer\n",
    f'host "{HBA_BEGIN}" all all reject\n',
    f"{HBA_BEGIN}NING of something else\nlocal all all peer\n",
    f"# quoted: '{HBA_END}'\nlocal all all peer\n",
    "local all all peer # form feed \f vertical \v and \x1c \x85 \u2028 in a comment\nlocal x x peer\n",
    f"# a separator that only Unicode knows \u2028{HBA_BEGIN}\nlocal all all peer\n",
    "# bytes that are no UTF-8: \udcff\udcfe\nlocal all all peer\n",
]

LINES = st.text(st.characters(exclude_categories=["Cs"]), max_size=30).filter(
    lambda text: text.strip() not in (HBA_BEGIN, HBA_END)
)


def test_the_block_lets_in_who_holds_a_grant_then_jobs_and_the_data_api_then_no_tenant() -> None:
    rules = [line for line in BLOCK.splitlines() if not line.startswith("#")]
    assert rules == [
        f'hostssl "app" "tenant_acme","{second_login("tenant_acme")}" 203.0.113.7/32 scram-sha-256',
        'hostssl "app" +vaultbrix_jobs 10.0.0.0/16 scram-sha-256',
        'hostssl "app" +vaultbrix_rest 10.0.0.0/16 scram-sha-256',
        *REJECTED,
    ]
    assert BLOCK.startswith(HBA_BEGIN + "\n")
    assert BLOCK.endswith(HBA_END + "\n")


def test_the_admin_comes_from_trusted_sources_and_from_nowhere_else() -> None:
    block = hba_block(database="app", pairs=[], trusted=["203.0.113.5/32"], admin=Admin("postgres"))
    rules = [line for line in block.splitlines() if not line.startswith("#") and '"postgres"' in line]
    assert rules == [
        'hostssl all "postgres" 203.0.113.5/32 scram-sha-256',
        'host all,replication "postgres" all reject',
    ]
    assert splice_hba(block.replace(f"{HBA_END}\n", ""), OTHER) == OTHER, "they are known as ours without the mark, too"
    assert '"postgres"' not in BLOCK
    block = hba_block(database="app", pairs=[], trusted=["203.0.113.5/32"], admin=Admin("postgres", certificate=True))
    assert 'hostssl all "postgres" 203.0.113.5/32 scram-sha-256 clientcert=verify-full\n' in block
    assert splice_hba(block.replace(f"{HBA_END}\n", ""), OTHER) == OTHER


def test_without_grants_only_the_rejection_is_left() -> None:
    rules = [line for line in OTHER.splitlines() if not line.startswith("#")]
    assert rules == REJECTED


@pytest.mark.parametrize("name", ["all", "replication", "+group", "sameuser", "a b", "ü", "it's", "a,b", "#x", "@file"])
def test_a_name_is_quoted_so_that_it_is_only_a_name(name: str) -> None:
    assert hba_quote(name) == f'"{name}"'
    assert f'hostssl "{name}" "{name}","{second_login(name)}" ' in hba_block(
        database=name, pairs=[(name, "10.0.0.0/24")], trusted=[]
    )


@pytest.mark.parametrize("name", ['a"b', "a\nhost all all all trust", "a\rb", "a\0b", '"'])
def test_a_name_that_could_leave_its_quotes_is_refused(name: str) -> None:
    for database, role in ((name, "tenant_acme"), ("app", name)):
        with pytest.raises(ValueError, match="cannot hold"):
            hba_block(database=database, pairs=[(role, "10.0.0.0/24")], trusted=[])


@pytest.mark.parametrize("content", FOREIGN)
def test_everything_that_is_not_ours_stays_as_it_was_below_the_block(content: str) -> None:
    assert splice_hba(content, BLOCK) == BLOCK + content
    assert splice_hba(BLOCK + content, BLOCK) == BLOCK + content
    assert splice_hba(BLOCK + content, OTHER) == OTHER + content


@given(st.lists(st.tuples(LINES, st.sampled_from(["\n", "\r\n"]))), LINES, st.integers(0, 10))
def test_splicing_keeps_foreign_bytes_wherever_the_block_was_and_is_idempotent(
    lines: list[tuple[str, str]], last: str, where: int
) -> None:
    foreign = [line + end for line, end in lines]
    before, after = "".join(foreign[:where]), "".join(foreign[where:]) + last
    if any(part in (HBA_BEGIN, HBA_END) for part in re.split(r"\s*[\r\n]\s*", f"{before}\n{after}")):
        return
    once = splice_hba(before + OTHER + after, BLOCK)
    assert once == BLOCK + before + after
    assert splice_hba(once, BLOCK) == once


def test_a_block_of_an_earlier_agent_is_replaced_also_without_its_end_mark() -> None:
    assert splice_hba(f"{EARLIER}{HBA_END}\nlocal a a peer\n", BLOCK) == f"{BLOCK}local a a peer\n"
    assert splice_hba(f"{EARLIER}local a a peer\n", BLOCK) == f"{BLOCK}local a a peer\n"


def test_a_block_that_was_doubled_is_one_again() -> None:
    assert splice_hba(f"{OTHER}local a a peer\n{OTHER}local b b peer\n", BLOCK) == (
        f"{BLOCK}local a a peer\nlocal b b peer\n"
    )


def test_marks_that_were_indented_or_given_other_line_ends_are_still_ours() -> None:
    old = OTHER.replace(HBA_BEGIN, f"  {HBA_BEGIN} ").replace("\n", "\r\n")
    assert splice_hba(f"{old}local a a peer\n", BLOCK) == f"{BLOCK}local a a peer\n"


def test_an_end_mark_alone_hides_nothing() -> None:
    content = f"local a a peer\n{HBA_END}\nlocal b b peer\n"
    assert splice_hba(content, BLOCK) == BLOCK + content


def test_a_block_without_its_end_takes_no_foreign_line_with_it() -> None:
    cut = OPEN.replace(HBA_END + "\n", "")
    foreign = "# mine\nhostssl app tenant_acme 10.0.0.1/32 scram-sha-256\nlocal all all peer\n"
    assert splice_hba(cut + foreign, BLOCK) == BLOCK + foreign
    assert splice_hba(cut + foreign + OPEN + foreign, BLOCK) == BLOCK + foreign + foreign


def test_the_file_says_whether_somebody_else_wrote_it(tmp_path: Path) -> None:
    path = tmp_path / "pg_hba.conf"
    path.write_text("local all all peer\n")
    file = HbaFile(path)
    assert file.changed_by_others()
    file.write(BLOCK)
    assert not file.changed_by_others()
    path.write_text(path.read_text() + "# mine\n")
    assert file.changed_by_others()
    file.write(OTHER)
    assert path.read_text() == OTHER + "local all all peer\n# mine\n"


def test_no_line_of_an_old_block_survives_in_any_form() -> None:
    old = hba_block(database="app", pairs=[("tenant_gone", "198.51.100.1/32")], trusted=[])
    assert "tenant_gone" not in splice_hba(old + "local all all peer\n", BLOCK)


@pytest.mark.parametrize("content", [text.encode("utf-8", "surrogateescape") for text in FOREIGN])
def test_the_file_keeps_foreign_bytes_and_its_mode(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "pg_hba.conf"
    path.write_bytes(content)
    path.chmod(0o640)
    HbaFile(path).write(BLOCK)
    assert path.read_bytes() == BLOCK.encode() + content
    assert path.stat().st_mode & 0o777 == 0o640
    HbaFile(path).write(OTHER)
    assert path.read_bytes() == OTHER.encode() + content
    assert [p.name for p in tmp_path.iterdir()] == ["pg_hba.conf"]
