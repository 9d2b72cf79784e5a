"""Where the outside comes in: kopf's watches, and HTTP probes."""
