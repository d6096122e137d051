"""Second-order measurements: Hessian products, Lanczos, Hutchinson, Gauss-Newton and the input-output Jacobian.

What may live here: one file per method, with its formula, source and cost.
"""
