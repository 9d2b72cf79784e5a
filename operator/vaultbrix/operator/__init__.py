"""The operator: kopf's watch, the queues of all subjects, metrics."""
