"""dbt with a project of models, a snapshot and a seed, over a table that the application fills."""

import datetime
from decimal import Decimal

from tests.harness.tool_client import Client, Done, kit

ORDERS = (
    "CREATE TABLE orders(id int PRIMARY KEY, status text NOT NULL, total numeric NOT NULL, changed timestamp NOT NULL)",
    "INSERT INTO orders VALUES (1, 'paid', 10, '2026-01-01'), (2, 'new', 5, '2026-01-02')",
)


class Dbt(Client):
    """dbt-core with dbt-postgres and psycopg2; every model's name begins with ``mart_``."""

    name = "dbt"
    FIRST_DAY = (datetime.date(2026, 1, 1), Decimal(10))
    """The one row of ``mart_daily`` before any day has passed."""
    HISTORY = ((1, "paid"), (2, "new"), (2, "paid"), (3, "new"), (3, "paid"), (4, "new"))
    """What the snapshot holds when it was taken on three days."""

    def begin(self) -> None:
        """The project, and what the application has in the database before it."""
        self._copy("dbt")
        self.sql(*ORDERS)

    def next_day(self) -> None:
        """The newest order is paid, and another one comes."""
        self.sql(
            "UPDATE orders SET status = 'paid', changed = changed + interval '1 day' WHERE status = 'new'",
            "INSERT INTO orders SELECT max(id) + 1, 'new', 7, max(changed) + interval '1 hour' FROM orders",
        )

    def dbt(self, *arguments: str) -> Done:
        """A command of dbt, however it ends."""
        quiet = ("--no-use-colors", "--no-version-check", "--no-send-anonymous-usage-stats")
        return self.run(kit("dbt") / "bin/dbt", *quiet, *arguments)

    def succeed(self, *arguments: str) -> None:
        """A command of dbt that does all that it is to do."""
        done = self.dbt(*arguments)
        assert done.returncode == 0, done.stdout + done.stderr
