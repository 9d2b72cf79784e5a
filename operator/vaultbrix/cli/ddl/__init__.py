"""Commands for approvals."""
