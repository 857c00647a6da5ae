"""Functions of SciPy with derivatives, under SciPy's names and with its signatures.

`scipy.special`'s ufuncs work on Values as they are. What SciPy does not let others answer is here: write `from
tapegrad.scipy import stats` in place of `from scipy import stats`. With plain numbers the functions give plain numbers.
"""
