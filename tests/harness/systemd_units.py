"""systemd's unit files, as far as the tests look into them (systemd.syntax(7))."""

import re
import shlex
from collections.abc import Mapping
from pathlib import Path


class Unit:
    """One unit: the settings of all its sections, in order. An empty one takes back those before it."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self._settings: list[tuple[str, str]] = []
        for line in re.sub(r"\\\n\s*", " ", path.read_text()).splitlines():
            name, equals, value = line.partition("=")
            if equals and not line.startswith(("#", ";", "[")):
                self._settings.append((name.strip(), value.strip()))

    def values(self, name: str) -> list[str]:
        """All values of a setting."""
        return [value for key, value in self._settings if key == name]

    def value(self, name: str) -> str:
        """The value of a setting that is given once, empty when it is not given."""
        found = self.values(name)
        assert len(found) <= 1, f"{self.path.name}: {name} is given {len(found)} times"
        return found[0] if found else ""

    def environment(self) -> dict[str, str]:
        """What Environment= sets."""
        return dict(part.split("=", 1) for value in self.values("Environment") for part in shlex.split(value))

    def command(self, values: Mapping[str, str]) -> list[str]:
        """ExecStart with ``${NAME}`` replaced; a name that has no value is a KeyError."""
        return [
            re.sub(r"\$\{(\w+)\}", lambda found: values[found.group(1)], part)
            for part in shlex.split(self.value("ExecStart"))
        ]


def environment(text: str) -> dict[str, str]:
    """An EnvironmentFile."""
    lines = [line for line in text.splitlines() if line.strip() and not line.startswith("#")]
    return dict(line.split("=", 1) for line in lines)
