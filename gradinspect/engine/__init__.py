"""Numbers from models. The only folder of the library that imports torch.

A pass over a model records the forward values while the layers run (`forward`), the gradients while the autograd
graph is walked backwards (`backward`), and hands plain numbers to `layers` and `parameters`, which make the report's
rows. Nothing in here judges; thresholds and remedies live in `gradinspect.rules`.
"""
