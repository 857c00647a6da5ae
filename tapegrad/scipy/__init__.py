"""Functions of SciPy with derivatives, under SciPy's names and with its signatures."""
