"""Rules about values a number format cannot hold."""
