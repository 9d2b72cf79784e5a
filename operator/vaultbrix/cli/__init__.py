"""``vaultbrix`` and ``kubectl vaultbrix``: one module per sub-command, each the composition root of its process."""
