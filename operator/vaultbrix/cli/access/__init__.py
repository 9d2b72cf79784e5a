"""Commands for rules: allow, rules, explain, extend, revoke, status."""
