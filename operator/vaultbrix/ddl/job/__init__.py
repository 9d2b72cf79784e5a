"""The Job of an approval: run the approved text once, as the tenant, through the gate."""
