"""The kernel's firewall: who may reach PostgreSQL's port now, with timeouts that the kernel keeps by itself."""

from vaultbrix.agent.host.firewall.choice import AUTO, IPTABLES, NFTABLES, Chosen, choose
from vaultbrix.agent.host.firewall.interface import LONGEST_TIMEOUT, Firewall, timeout_for

__all__ = ["AUTO", "IPTABLES", "LONGEST_TIMEOUT", "NFTABLES", "Chosen", "Firewall", "choose", "timeout_for"]
