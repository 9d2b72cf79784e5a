"""How long records are kept, and what is dropped when its days have passed."""
