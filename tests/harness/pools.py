"""Programs with a pool of sessions, one for each driver: all do the same and print what they found, as JSON."""

from tests.harness.tool_client import Client, Done, kit


class Pool(Client):
    """A pool of one session that is reset with ``DISCARD ALL`` each time it is given back.

    It makes tables, one of them temporary, changes settings, reads 1,000 rows by a cursor in batches of 100, looks at
    its session, and tries to drop the table.
    """

    def pooled(self) -> Done:
        """Run it, however that ends."""
        self._copy("pools")
        return self.start()

    def start(self) -> Done:
        """Run it in its folder."""
        raise NotImplementedError


class Psycopg(Pool):
    """psycopg 3 with psycopg_pool."""

    name = "psycopg"

    def start(self) -> Done:
        return self.run(kit("python") / "bin/python", "pool_psycopg.py")


class Asyncpg(Pool):
    """asyncpg with its own pool."""

    name = "asyncpg"

    def start(self) -> Done:
        return self.run(kit("python") / "bin/python", "pool_asyncpg.py")


class NodePostgres(Pool):
    """node-postgres with pg-cursor."""

    name = "node-postgres"

    def start(self) -> Done:
        return self.run("node", "pool.js", NODE_PATH=str(kit("npm") / "node_modules"))


class Pgx(Pool):
    """pgx with pgxpool."""

    name = "pgx"

    def start(self) -> Done:
        return self.run(kit("go") / "pool")


class Pgjdbc(Pool):
    """pgjdbc, its cursor by a fetch size."""

    name = "pgjdbc"

    def start(self) -> Done:
        return self.run(
            "java", "-XX:TieredStopAtLevel=1", "-cp", f"{kit('java')}/*", "Pool.java",
            JDBC_URL=self.login.jdbc,
            JDBC_USER=self.login.role,
            JDBC_PASSWORD=self.login.password,
        )  # fmt: skip


POOLS: tuple[type[Pool], ...] = (Psycopg, Asyncpg, NodePostgres, Pgx, Pgjdbc)
