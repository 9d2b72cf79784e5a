"""``vaultbrix`` and ``kubectl vaultbrix``: options in, a subject's answer out. Knows no rule of its own."""
