"""The operator's reconcilers: one module per kind, each gather → decide → act → report."""
