"""Raw rows of any source -> events, and rejects with their reason."""
