"""Numbers from models. The only folder of the library that imports torch.

A pass over a model records the forward values while the layers run (`forward`), the signals and gradients while the
autograd graph is walked backwards (`backward`), and hands plain numbers to `rows`, which makes the report's rows;
`gradients` holds the pass together, `measure` the report. Everything that reads a tensor goes through a `ledger`.
Nothing in here judges; thresholds and remedies live in `gradinspect.rules`.
"""
