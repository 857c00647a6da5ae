


















one
one / 0
