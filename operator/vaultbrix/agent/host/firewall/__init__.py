"""The kernel's firewall: which addresses may reach PostgreSQL's port, with deadlines that the kernel keeps itself."""

from vaultbrix.agent.host.firewall.choice import AUTO, IPTABLES, NFTABLES, ChosenFirewall, choose
from vaultbrix.agent.host.firewall.interface import LONGEST_TIMEOUT, Firewall, timeout_for

__all__ = ["AUTO", "IPTABLES", "LONGEST_TIMEOUT", "NFTABLES", "ChosenFirewall", "Firewall", "choose", "timeout_for"]
