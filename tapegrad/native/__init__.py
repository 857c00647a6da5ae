"""Programs as machine code: a recorded program becomes a list of loops, and these are compiled."""
