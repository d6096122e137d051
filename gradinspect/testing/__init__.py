"""Networks and measurements with known properties, for tests of this project and of code that uses it."""
