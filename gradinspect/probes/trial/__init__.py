"""The learning trial: train the model on its own batch, see whether it learns, and restore it.

What may live here: the trial's data, loss and scale, one training run (`arm.train_arm`), and the order of runs. A
prescription trains its changed models by the same function.
"""
