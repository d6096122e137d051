"""An exported program as plain data: the graph, its stored tensors and its dimensions, without torch.

`intake.exported` reads it from a .pt2 file and checks it; `engine.network.exported` runs it.
"""
