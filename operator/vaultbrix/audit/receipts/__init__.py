"""Receipts: what a thing was used for that has ended, counted in the audit store and kept in its status."""
