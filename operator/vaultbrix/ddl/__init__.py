"""Destructive DDL that an admin approves: parsed, rehearsed, decided, run once."""
