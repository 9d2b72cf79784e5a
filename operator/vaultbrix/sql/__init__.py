"""SQL of the gate and of the audit store."""
