"""Direct access: AccessRules, from what a person asks for to what is open, explained, and counted when it ended."""
