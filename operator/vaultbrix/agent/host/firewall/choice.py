"""Which of the kernel's interfaces works here."""

from collections.abc import Iterable, Mapping

import structlog

from vaultbrix.agent.host.firewall.interface import Firewall
from vaultbrix.agent.host.firewall.nftables import Nftables
from vaultbrix.api.conditions import Reason
from vaultbrix.runtime.errors import Transient

log = structlog.get_logger(__name__)

AUTO, IPTABLES, NFTABLES = "auto", "iptables", "nftables"


def choose(port: int, wanted: str = AUTO) -> Firewall:
    """The one wanted, or the first that works, closed by default. What the other left is taken away after that.

    Raises Transient with what was tried and what each needs.
    """
    failures = []
    for name, other in ((IPTABLES, NFTABLES), (NFTABLES, IPTABLES)):
        if wanted not in (AUTO, name):
            continue
        try:
            chosen = _made(name, port)
            chosen.ensure()
        except Transient as error:
            failures.append(error.message)
            continue
        _clear(other, port)
        return chosen
    raise Transient(Reason.KERNEL_FAILED, f"no firewall works here: {'; '.join(failures)}")


class Chosen:
    """The firewall that ``choose`` finds. ``ensure`` looks for one until there is one; until then all else fails.

    So an agent whose kernel refuses it still ends sessions, and says what is missing.
    """

    def __init__(self, port: int, wanted: str = AUTO) -> None:
        self._port = port
        self._wanted = wanted
        self._backend: Firewall | None = None

    @property
    def name(self) -> str:
        """Empty until there is one."""
        return self._backend.name if self._backend else ""

    def ensure(self) -> bool:
        """As of the one that is found; True when it was found just now."""
        if self._backend is None:
            self._backend = choose(self._port, self._wanted)
            log.info("firewall", name=self.name)
            return True
        return self._backend.ensure()

    def trust(self, cidrs: Iterable[str]) -> None:
        """As of the one that was found."""
        self._found().trust(cidrs)

    def allow(self, wanted: Mapping[str, int]) -> None:
        """As of the one that was found."""
        self._found().allow(wanted)

    def deny(self, cidrs: Iterable[str]) -> None:
        """As of the one that was found."""
        self._found().deny(cidrs)

    def allowed(self) -> dict[str, int]:
        """As of the one that was found."""
        return self._found().allowed()

    def missing(self, cidrs: Iterable[str]) -> set[str]:
        """As of the one that was found."""
        return self._found().missing(cidrs)

    def refused(self) -> list[str]:
        """As of the one that was found."""
        return self._found().refused()

    def remove(self) -> None:
        """As of the one that was found."""
        self._found().remove()

    def _found(self) -> Firewall:
        if self._backend is None:
            raise Transient(Reason.KERNEL_FAILED, "no firewall works here yet")
        return self._backend


def _made(name: str, port: int) -> Firewall:
    if name == NFTABLES:
        return Nftables(port)
    try:
        # Not above: a machine without its libraries still has nftables.
        from vaultbrix.agent.host.firewall.iptables import Iptables  # noqa: PLC0415
    except (ImportError, OSError, AttributeError) as error:
        raise Transient(Reason.KERNEL_FAILED, f"iptables: {error}; needs libxtables, libip4tc and libip6tc") from None
    return Iptables(port)


def _clear(name: str, port: int) -> None:
    try:
        _made(name, port).remove()
    except Transient as error:
        # Most likely it never worked here. If it did, what it left lets nobody in that it did not let in before.
        log.info("cannot look for what another firewall left", message=error.message)
