"""Rehearsals: a text is run and rolled back, so that an approver sees what it does."""
