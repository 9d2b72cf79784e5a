"""NetworkPolicies that follow from the open rules."""
