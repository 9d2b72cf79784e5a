"""The layers that enforce what is open, each closing by itself."""
