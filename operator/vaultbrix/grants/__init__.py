"""The agent's record of grants: what is open, what has ended, whom a login stands for. The shipper reads it, too."""
