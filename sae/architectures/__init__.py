"""One file per architecture; each can be read as its definition."""
