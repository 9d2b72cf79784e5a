"""Machinery without domain words: queue, deadlines, informer, periodic jobs."""
