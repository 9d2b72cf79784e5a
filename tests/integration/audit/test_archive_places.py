"""The command against a folder and a real S3 server: all or nothing, with no secret where others can read it."""

from collections.abc import Iterator, Mapping
from pathlib import Path

import psycopg
import pytest
from psycopg import sql
from tests.harness.archived_store import ArchivedStore, archived_store, day_of, line, statement
from tests.harness.database import free_port
from tests.harness.processes import VAULTBRIX, Process
from tests.harness.s3 import BUCKET, S3, s3
from tests.harness.shell import run, wait_for

YESTERDAY, TODAY = day_of(1), day_of(0)
URL = f"s3://{BUCKET}/main/audit"


@pytest.fixture(scope="module")
def found() -> Iterator[ArchivedStore]:
    with archived_store() as running:
        running.store.query("INSERT INTO audit.retention VALUES ('', 'READ', 90)")
        main = running.server("main")
        main.write("1", [line(YESTERDAY, 1), *statement(YESTERDAY, 2, "SELECT 'é'"), line(TODAY, 1)])
        running.settle()
        (running.path / "export.key").write_text(running.key)
        (running.path / "export.key").chmod(0o600)
        yield running


@pytest.fixture(scope="module")
def exporter(found: ArchivedStore) -> Mapping[str, str]:
    return found.store.environment(found.store.login("exporter", "audit_export"))


@pytest.fixture(scope="module")
def bucket(found: ArchivedStore) -> Iterator[S3]:
    with s3(found.path, free_port()) as server:
        yield server


def command(found: ArchivedStore, url: str, *more: str) -> list[str]:
    return [*VAULTBRIX, "audit", "export", url, f"--key={found.path / 'export.key'}", *more]


def export(found: ArchivedStore, url: str, *more: str, env: Mapping[str, str]) -> tuple[int, str]:
    """Run the command; returns its exit code and all that it said."""
    done = run(*command(found, url, *more), check=False, env=env)
    assert "Traceback" not in done.stdout + done.stderr, done.stderr
    return done.returncode, done.stdout + done.stderr


def test_a_folder_and_a_bucket_hold_the_same(
    found: ArchivedStore, bucket: S3, exporter: Mapping[str, str], monkeypatch: pytest.MonkeyPatch
) -> None:
    env = {**exporter, **bucket.environment}
    code, said = export(found, found.url, env=exporter)
    assert (code, said.startswith(f"{YESTERDAY}  3 rows") or said) == (0, True)
    (found.path / "export.pub").write_text(found.public)
    signed = f"{found.url}/day={YESTERDAY}/set=1/manifest"
    openssl = ("openssl", "pkeyutl", "-verify", "-pubin", "-inkey", found.path / "export.pub", "-rawin")
    run(*openssl, "-in", f"{signed}.json", "-sigfile", f"{signed}.sig")
    code, said = export(found, URL, env=env)
    assert (code, bucket.secret in said) == (0, False), said
    for name, value in bucket.environment.items():
        monkeypatch.setenv(name, value)
    report = found.check(YESTERDAY, url=URL)
    assert report.findings == []
    assert report.rows == found.check(YESTERDAY).rows == 3
    assert export(found, URL, env=env) == (0, "nothing to export: all past days are in the archive\n")
    assert export(found, URL, "--again", f"--day={YESTERDAY}", env=env)[0] == 0
    assert {path.parent.name for path in bucket.folder.rglob("*.*") if path.is_file()} == {"set=2"}
    assert found.check(YESTERDAY, 2, url=URL).findings == []


def test_what_a_killed_export_leaves_does_not_count_and_is_gone_on_with(
    found: ArchivedStore, bucket: S3, exporter: Mapping[str, str]
) -> None:
    url, env = f"{URL}-killed", {**exporter, **bucket.environment}
    waits = "SELECT 1 FROM pg_locks WHERE NOT granted AND relation = to_regclass(%s)"
    partition = f"record_{YESTERDAY:%Y%m%d}_400"
    killed = Process(command(found, url), found.path / "killed.log", env=env)
    with found.store.open() as owner, owner.transaction():
        # It waits here with the other partition's file in the bucket.
        owner.execute(sql.SQL("LOCK TABLE {}").format(sql.Identifier("audit", partition)))
        killed.start()
        wait_for("it waits", lambda: found.store.query(waits, [f"audit.{partition}"]), tell=killed.text)
        killed.kill()
    names = {path.name for path in bucket.folder.rglob("*-killed/**/*.*")}
    assert names == {"record-90-main-1-1.parquet"}
    code, said = export(found, url, env=env)
    assert (code, " manifest " in said or said) == (0, True)


@pytest.mark.parametrize(
    ("url", "more", "env", "expected"),
    [
        ("ftp://x/y", (), {}, "error: URL: ftp: is not known\n       write a folder's path or s3://bucket/prefix"),
        ("s3://", (), {}, "error: URL: no bucket is named\n       write s3://bucket/prefix"),
        ("s3://me:pw@b/p", (), {}, "error: URL: it must hold no credentials\n       set AWS_ACCESS_KEY_ID"),
        ("x", ("--day=yesterday",), {}, "error: --day: Invalid isoformat string: 'yesterday'\n       write YYYY-MM-DD"),
        ("x", ("--again",), {}, "error: --again: needs --day\n       name the days"),
        (
            "x",
            ("--key=/nowhere",),
            {},
            "error: --key: [Errno 2] No such file or directory: '/nowhere'\n       make one",
        ),
        ("x", (), {"PGPORT": "1"}, "error: audit store: connection failed"),
        ("/proc/none", (), {}, "error: /proc/none: "),
        (URL, (), {"AWS_ENDPOINT_URL": "nonsense"}, "error: URL: AWS_ENDPOINT_URL is no URL of a server\n       write"),
    ],
)
def test_an_error_names_what_is_wrong_and_what_to_do(
    found: ArchivedStore, exporter: Mapping[str, str], tmp_path: Path, url: str, more: tuple[str, ...],
    env: dict[str, str], expected: str,
) -> None:  # fmt: skip
    code, said = export(found, str(tmp_path / "x") if url == "x" else url, *more, env={**exporter, **env})
    assert (code in (1, 2), said.startswith(expected) or said, "\n       " in said) == (True, True, True)


def test_a_reader_may_not_export_and_an_exporter_may_not_write(found: ArchivedStore, tmp_path: Path) -> None:
    code, said = export(found, str(tmp_path / "x"), env=found.store.environment(found.store.reader))
    assert (code, said.startswith("error: the login may not export")) == (1, True)
    assert not (tmp_path / "x").exists()
    for statement_ in ("DELETE FROM audit.export", "UPDATE audit.record SET person = ''", "DELETE FROM audit.batch"):
        with found.store.open() as owner, pytest.raises(psycopg.errors.InsufficientPrivilege):
            owner.execute("SET ROLE audit_export")
            owner.execute(statement_)


def test_wrong_credentials_are_an_error_without_the_secret(
    found: ArchivedStore, bucket: S3, exporter: Mapping[str, str]
) -> None:
    env = {**exporter, **bucket.environment, "AWS_SECRET_ACCESS_KEY": "wrong-secret-value"}
    code, said = export(found, URL, env=env)
    assert (code, said.startswith(f"error: {URL}: ")) == (1, True)
    assert "wrong-secret-value" not in said
