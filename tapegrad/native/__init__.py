"""Recorded programs as machine code."""
