"""wrk: requests over so many connections for so long, and how long each took."""

import json
import shlex
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from tests.harness.postgrest import program
from tests.harness.shell import run

_SCRIPT = """
wrk.method = %(method)s
wrk.body = %(body)s
%(headers)s
done = function(summary, latency, requests)
  local errors = summary.errors
  io.stderr:write(string.format('{"requests": %%d, "seconds": %%f, "p50_ms": %%f, "p99_ms": %%f, "failed": %%d}\\n',
    summary.requests, summary.duration / 1e6, latency:percentile(50) / 1e3, latency:percentile(99) / 1e3,
    errors.connect + errors.read + errors.write + errors.status + errors.timeout))
end
"""


@dataclass(frozen=True)
class Load:
    """What one run came to. ``rate`` is in requests per second, times are in milliseconds."""

    rate: float
    p50_ms: float
    p99_ms: float
    failed: int


@dataclass(frozen=True)
class Asked:
    """A request that is sent again and again."""

    method: str
    target: str
    headers: Mapping[str, str]
    body: str = ""


def wrk(folder: Path, port: int, asked: Asked, *, connections: int, seconds: float) -> Load:
    """Ask a port of 127.0.0.1; every answer that is no success counts as failed."""
    script = folder / "wrk.lua"
    # JSON's strings are Lua's where they hold neither control characters nor \\u escapes.
    headers = [f"wrk.headers[{json.dumps(name)}] = {json.dumps(value)}" for name, value in asked.headers.items()]
    values = {"method": json.dumps(asked.method), "body": json.dumps(asked.body), "headers": "\n".join(headers)}
    script.write_text(_SCRIPT % values)
    done = run(*command(script, port, asked, connections, seconds), timeout=seconds + 60)
    said = json.loads(done.stderr)
    return Load(said["requests"] / said["seconds"], said["p50_ms"], said["p99_ms"], said["failed"])


def command(script: Path, port: int, asked: Asked, connections: int, seconds: float) -> list[str]:
    """How wrk is called."""
    url = f"http://127.0.0.1:{port}{asked.target}"
    return [
        str(program("wrk")), "-t1", f"-c{connections}", f"-d{seconds:.0f}s", "--timeout=20s", "-s", str(script),
        url,
    ]  # fmt: skip


def shown(asked: Asked, connections: int, seconds: float) -> str:
    """The command for people, with what its script sends but for the headers."""
    script = shlex.join([asked.method, asked.target, *([asked.body] if asked.body else [])])
    return f"wrk -t1 -c{connections} -d{seconds:.0f}s --timeout=20s: {script}"
