"""APIKeys: what an application calls the data API with: made, rotated and ended; its text is in its Secret alone."""
