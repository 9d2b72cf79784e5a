"""A tenant of the world with tables, for tests of approvals."""

import itertools

from tests.harness.approvals import Approval, submit
from tests.harness.world import World

numbers = itertools.count(1)


class TenantWithTables:
    """A tenant with tables: ``a`` with a view on it, ``b``, and rows in both."""

    def __init__(self, world: World) -> None:
        self.world = world
        self.team = world.team()
        self.tenant = world.tenant(self.team)
        self.role = f"tenant_{self.tenant.replace('-', '_')}"
        self.sql(
            "CREATE TABLE a(id int PRIMARY KEY, v text)", "INSERT INTO a SELECT n, 'x' FROM generate_series(1, 1000) n",
            "CREATE VIEW look AS SELECT v FROM a", "CREATE TABLE b(id int)", "INSERT INTO b VALUES (1)",
        )  # fmt: skip
        world.postgres.query("ANALYZE")

    def sql(self, *statements: str) -> None:
        """As the tenant's role, with what it makes its own."""
        with self.world.postgres.connect() as connection, connection.transaction():
            # A session of its own login would need a rule; the gate judges by the current user, so only what is free.
            connection.execute(f"SET LOCAL ROLE {self.role}".encode())
            connection.execute(f"SET LOCAL search_path = {self.role}".encode())
            for statement in statements:
                connection.execute(statement.encode())

    def submit(self, sql: str, **spec: object) -> Approval:
        return submit(self.world, self.team, f"r{next(numbers)}", self.tenant, sql, **spec)

    def there(self, table: str) -> bool:
        found = self.world.postgres.query("SELECT to_regclass(%s) IS NOT NULL", [f"{self.role}.{table}"])
        return found == [(True,)]

    def plain(self, names: list[str]) -> set[str]:
        return {name.replace(self.role, "t") for name in names}
