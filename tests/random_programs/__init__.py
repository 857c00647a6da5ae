"""Random programs, whose derivatives are held against an oracle: `python -m tests.random_programs --count 1000`."""
