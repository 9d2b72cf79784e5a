"""Lines for a person's shell that reach PostgreSQL with what a Secret of credentials holds. Pure."""

from dataclasses import dataclass
from shlex import quote


@dataclass(frozen=True)
class ShellCredentials:
    """A Secret with credentials by namespace and name; ``has_ca``: it holds the CA of the server's certificate."""

    namespace: str
    name: str
    has_ca: bool = True

    @property
    def preparation(self) -> list[str]:
        """What is to be run once before: libpq reads a CA from a file only. Empty where there is none."""
        if not self.has_ca:
            return []
        return [f"{self._get}'{{.data.ca\\.crt}}' | base64 -d > {quote(self._authority)}"]

    @property
    def conninfo(self) -> str:
        """One word of a shell: what psql and all else with libpq takes to connect.

        It is made of key ``uri``. ``DATABASE_URL`` is Prisma's: libpq refuses its parameters.
        """
        parameters = "channel_binding=require" + (f"&sslrootcert={self._authority}" if self.has_ca else "")
        return f"""\"$({self._get}'{{.data.uri}}' | base64 -d)&{parameters}\""""

    @property
    def _authority(self) -> str:
        return f"{self.name}.ca.crt"

    @property
    def _get(self) -> str:
        return f"kubectl -n {quote(self.namespace)} get secret {quote(self.name)} -o jsonpath="
