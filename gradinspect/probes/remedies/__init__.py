"""What else can be done where no learning-rate scale helps: one file a remedy, each probed like a scale.

A remedy is an arm of the gate, and the code with which its caller gets the same training.
"""
