"""The learning trial: train a copy of the model on its own batch, and see whether it learns.

What may live here: the trial's data, loss and scale, one training run (`arm.train_arm`), and the order of runs. A
prescription trains its changed models by the same function.
"""
