"""Statements that the gate refused, and the requests that are made of them."""
