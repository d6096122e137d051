"""Published networks with random weights and small inputs, by the library that has them, for `benchmarks.zoo`.

Libraries are imported where a network is built, so one that is missing fails alone.
"""
