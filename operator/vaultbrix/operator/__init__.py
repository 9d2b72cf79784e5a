"""The operator's process: runs what the subjects registered, fed by kopf's watch; its metrics."""
