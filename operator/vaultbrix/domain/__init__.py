"""Pure decisions: what should hold, given objects and ``now``. No I/O, no clock, no randomness of its own."""
