"""Whether the store is what was sealed: the whole of it, a day, one record."""
