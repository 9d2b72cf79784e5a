"""What the gate costs whole runs of real tools: a ``dbt run`` of 50 models, 100 migrations of Django's.

``make bench-ddl`` prints seconds of the whole command, with and without the gate in turn on one server, and merges them
into tests/bench/results/ddl.json. Policies cover all that the tools do, so nothing is refused; that is made sure of.
"""

import shutil
import statistics
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from tests.harness.bench import results
from tests.harness.database import Database
from tests.harness.database import running as database_running
from tests.harness.dbt import Dbt
from tests.harness.migration_project import Held, client_of, made
from tests.harness.migration_tools import Django
from tests.harness.tool_client import Done, kit

pytestmark = pytest.mark.timeout(900)

# With the gate and without it, so that each side is as often the first of two.
TURNS = (True, False, False, True)
# The first models are views of the application's table, the others tables that read a view.
MODELS, VIEWS = 50, 15
STEPS = 100
# What steps do in turn: a fifth of them makes a table, the others add to it.
STEPS_OF_A_MODEL = 5
GUARD = "vaultbrix_truncate_guard"


class FiftyModels(Dbt):
    """Views of the application's orders, and tables of these views, every other one with an index."""

    def begin(self) -> None:
        super().begin()
        for folder in ("models", "snapshots", "seeds"):
            for path in (self.folder / folder).iterdir():
                if path.name != "sources.yml":
                    path.unlink()
        for n in range(1, MODELS + 1):
            (self.folder / f"models/mart_{n:02}.sql").write_text(self._model(n))

    @staticmethod
    def _model(number: int) -> str:
        if number <= VIEWS:
            return (
                "{{ config(materialized='view') }}\n"
                f"select id, status, total * {number} as total, changed from {{{{ source('shop', 'orders') }}}}\n"
            )
        index = "{{ config(indexes=[{'columns': ['status']}]) }}\n" if number % 2 else ""
        view = f"{{{{ ref('mart_{number % VIEWS + 1:02}') }}}}"
        return f"{index}select status, sum(total) as total, max(changed) as changed from {view} group by 1\n"


class HundredSteps(Django):
    """Of every five migrations one makes a table; the others add a column, a foreign key, an index, a check."""

    def release(self, number: int) -> None:
        super().release(0)
        for n in range(1, number + 1):
            (self.folder / f"shop/migrations/{n:04}_step.py").write_text(self._step(n))

    @staticmethod
    def _step(number: int) -> str:
        model, what = divmod(number - 1, STEPS_OF_A_MODEL)
        name = f"Model{model}"
        operation = (
            f"migrations.CreateModel('{name}', [('id', models.BigAutoField(primary_key=True)),"
            " ('email', models.TextField(unique=True)), ('total', models.IntegerField())])",
            f"migrations.AddField('{name}', 'note', models.TextField(null=True))",
            f"migrations.AddField('{name}', 'first',"
            " models.ForeignKey('shop.Model0', models.PROTECT, null=True, related_name='+'))",
            f"migrations.AddIndex('{name}', models.Index(fields=['total'], name='total_{model}'))",
            f"migrations.AddConstraint('{name}',"
            f" models.CheckConstraint(condition=models.Q(total__gte=0), name='positive_{model}'))",
        )[what]
        before = [("shop", f"{number - 1:04}_step")] if number > 1 else []
        return (
            "from django.db import migrations, models\n\n\n"
            "class Migration(migrations.Migration):\n"
            f"    dependencies = {before}\n"
            f"    operations = [{operation}]\n"
        )


@pytest.fixture(scope="module")
def database() -> Iterator[Database]:
    """A PostgreSQL with the gate, and the tools beside it."""
    for name in ("dbt", "python"):
        kit(name)
    with database_running({"autovacuum": "off"}, in_memory=True) as started:
        yield started


def timed(command: Callable[[], Done]) -> float:
    """Seconds of a command that does all that it is to do."""
    begun = time.perf_counter()
    done = command()
    taken = time.perf_counter() - begun
    assert done.returncode == 0, done.stdout + done.stderr
    return taken


def guarded(held: Held[Any]) -> int:
    """How many of the tenant's tables have the guard that the gate puts on each table that is made."""
    ((count,),) = held.postgres.query(
        "SELECT count(*) FROM pg_trigger t JOIN pg_class c ON c.oid = t.tgrelid"
        " WHERE t.tgname = %s AND c.relnamespace = %s::regnamespace",
        [GUARD, held.role],
    )
    return int(count)


def keep(key: str, what: str, times: dict[bool, list[float]], capsys: pytest.CaptureFixture[str]) -> None:
    """Print and store seconds of either side."""
    on, off = (statistics.median(times[side]) for side in (True, False))
    # On a machine that does other work, too, the fastest ones are nearer to the truth.
    fastest = min(times[True]) / min(times[False])
    figures = {
        "on_p50_s": round(on, 3), "off_p50_s": round(off, 3), "ratio": round(on / off, 3),
        "ratio_of_fastest": round(fastest, 3),
        "on_s": [round(value, 3) for value in times[True]], "off_s": [round(value, 3) for value in times[False]],
    }  # fmt: skip
    with capsys.disabled():
        print(f"\n{what}, {len(times[True])} times each; seconds")
        for name, side, p50 in (("off", False, off), ("on", True, on)):
            print(f"{name:<6}{p50:>8.2f}  from {min(times[side]):.2f} to {max(times[side]):.2f}")
        print(f"{'ratio':<6}{on / off:>8.2f}  of the fastest {fastest:.2f}")
    results.keep("ddl", {key: figures})


def test_dbt_run_of_50_models(database: Database, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    held = Held(database.postgres, client_of(database, FiftyModels, tmp_path))
    held.tool.begin()
    held.allow_rebuilding("mart_*")
    # The first run makes the models and what dbt keeps of reading the project; those that count build them anew.
    held.tool.succeed("run")
    times: dict[bool, list[float]] = {True: [], False: []}
    for gate in TURNS * 2:
        database.set_gate(enabled=gate)
        times[gate].append(timed(lambda: held.tool.dbt("run")))
        # The application's table was made with the gate on.
        assert guarded(held) == 1 + (MODELS - VIEWS if gate else 0)
    assert held.refused() == []
    keep("dbt_run_50_models", f"dbt run of {MODELS} models", times, capsys)


def test_django_migrate_of_100_steps(database: Database, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    times: dict[bool, list[float]] = {True: [], False: []}
    for n, gate in enumerate((True, *TURNS * 4)):
        folder = tmp_path / str(n)
        folder.mkdir()
        database.set_gate(enabled=gate)
        project = made(database, HundredSteps, folder)
        project.allow_additive()
        project.tool.release(STEPS)
        taken = timed(project.tool.migrate)
        # The first one of all reads Django from the disk.
        if n:
            times[gate].append(taken)
        assert (guarded(project), len(project.state().applied)) == (STEPS // STEPS_OF_A_MODEL + 1 if gate else 0, STEPS)
        assert project.refused() == []
        shutil.rmtree(folder)
    keep("django_100_steps", f"Django's migrate of {STEPS} steps", times, capsys)
