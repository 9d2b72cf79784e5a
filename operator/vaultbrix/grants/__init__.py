"""What is open, what has ended, and whom a login stands for: the contract between agent and shipper."""
