"""Networks and measurements with known truth, for the tests of this project and of those who build on it."""
