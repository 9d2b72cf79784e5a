"""Chooses the firewall of this machine: iptables where it works, else nftables, or the one that was asked for."""

from collections.abc import Iterable, Mapping

import structlog

from vaultbrix.agent.host.firewall.interface import CONNECTIONS_PER_ADDRESS, Firewall
from vaultbrix.agent.host.firewall.nftables import Nftables
from vaultbrix.api.conditions import Reason
from vaultbrix.runtime.errors import Transient

log = structlog.get_logger(__name__)

AUTO, IPTABLES, NFTABLES = "auto", "iptables", "nftables"


def choose(port: int, name: str = AUTO, most_connections: int = CONNECTIONS_PER_ADDRESS) -> Firewall:
    """Return the firewall of that name, or with AUTO the first that works here; its port is closed by default then.

    Afterwards the rules that the other firewall may have left are removed. Raises Transient, naming what was tried and
    what each needs.
    """
    failures = []
    for candidate, other in ((IPTABLES, NFTABLES), (NFTABLES, IPTABLES)):
        if name not in (AUTO, candidate):
            continue
        try:
            firewall = _make(candidate, port, most_connections)
            firewall.ensure()
        except Transient as error:
            failures.append(error.message)
            continue
        _remove_leftovers(other, port)
        return firewall
    raise Transient(Reason.KERNEL_FAILED, f"no firewall works here: {'; '.join(failures)}")


class ChosenFirewall:
    """A ``Firewall`` that chooses the real one by itself, since a kernel may refuse both for now.

    ``ensure`` chooses with each call until one works; until then every other method raises Transient. So an agent whose
    kernel refuses it still ends sessions, and says what is missing.
    """

    def __init__(self, port: int, requested_name: str = AUTO, most_connections: int = CONNECTIONS_PER_ADDRESS) -> None:
        self._port = port
        self._most_connections = most_connections
        self._requested_name = requested_name
        self._firewall: Firewall | None = None

    @property
    def name(self) -> str:
        """Name of the chosen firewall, empty until there is one."""
        return self._firewall.name if self._firewall else ""

    def ensure(self) -> bool:
        """Choose a firewall if there is none yet, else create what it lacks. Returns whether anything was amiss."""
        if self._firewall is None:
            self._firewall = choose(self._port, self._requested_name, self._most_connections)
            log.info("firewall", name=self.name)
            return True
        return self._firewall.ensure()

    def trust(self, cidrs: Iterable[str]) -> None:
        """Let exactly these CIDRs through without a deadline."""
        self._require().trust(cidrs)

    def allow(self, timeouts: Mapping[str, int]) -> None:
        """Let each CIDR through for so many seconds from now."""
        self._require().allow(timeouts)

    def deny(self, cidrs: Iterable[str]) -> None:
        """Let these CIDRs through no longer; one that is not let through is no error."""
        self._require().deny(cidrs)

    def allowed(self) -> dict[str, int]:
        """Return every CIDR that is let through now, with its seconds left."""
        return self._require().allowed()

    def missing(self, cidrs: Iterable[str]) -> set[str]:
        """Return those of these CIDRs that are not let through now."""
        return self._require().missing(cidrs)

    def refused(self) -> list[str]:
        """Return addresses that were refused in the last hour, the latest first."""
        return self._require().refused()

    def remove(self) -> None:
        """Remove every rule and set of ours, which leaves the port open."""
        self._require().remove()

    def _require(self) -> Firewall:
        if self._firewall is None:
            raise Transient(Reason.KERNEL_FAILED, "no firewall works here yet")
        return self._firewall


def _make(name: str, port: int, most_connections: int = 0) -> Firewall:
    if name == NFTABLES:
        return Nftables(port, most_connections)
    try:
        # Imported here: a machine without its libraries still has nftables.
        from vaultbrix.agent.host.firewall.iptables import Iptables  # noqa: PLC0415
    except (ImportError, OSError, AttributeError) as error:
        raise Transient(Reason.KERNEL_FAILED, f"iptables: {error}; needs libxtables, libip4tc and libip6tc") from None
    return Iptables(port, most_connections)


def _remove_leftovers(name: str, port: int) -> None:
    try:
        _make(name, port).remove()
    except Transient as error:
        # Most likely it never worked here. If it did, what it left lets nobody in that it did not let in before.
        log.info("cannot look for what another firewall left", message=error.message)
