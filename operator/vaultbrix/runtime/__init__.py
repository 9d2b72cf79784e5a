"""Machinery that knows no subject: work queue, deadlines, errors, clock, files, visible text, probes."""
