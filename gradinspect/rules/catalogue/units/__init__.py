"""Rules about units that are dead or saturated."""
