"""Kinds of public reports of failed training, each with its true cause and its repair.

Each network is drawn from seed 0. The words after a cause are what a report must name: a rule, and where or what it is
about.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import nn
from torch.nn import functional

from benchmarks.public_reports.networks import (
    Training,
    attention,
    bumpy,
    classes,
    constant,
    contradicting,
    counts,
    flat,
    fresh,
    generator,
    grouped,
    half,
    killed,
    language,
    listed,
    quantised,
    siamese,
    signed,
    stale,
    terms,
    values,
    wide,
)


@dataclass(frozen=True)
class Case:
    """One kind of report.

    Attributes:
        cause: the true one.
        rules: the rules of which one must fire.
        words: one of these must be in that finding's message, layers or operation.
        sick: builds the network that does not learn.
        repaired: builds it with the cause taken away; None where nothing of the network changes.
    """

    cause: str
    rules: tuple[str, ...]
    words: tuple[str, ...]
    sick: Callable[[], Training]
    repaired: Callable[[], Training] | None = None


CASES: dict[str, Case] = {
    "cut to 0 and 1": Case(
        "round has no slope", ("zero_gradient",), ("round",),
        lambda: classes(lambda z: z.sigmoid().round()), lambda: classes(torch.sigmoid),
    ),
    "softmax of one unit": Case(
        "a softmax over one element is 1", ("zero_gradient",), ("softmax",),
        lambda: classes(lambda z: z * z.mean(1, keepdim=True).softmax(1).log()), lambda: classes(),
    ),
    "acos of 1": Case(
        "infinite slope of acos at 1", ("non_finite",), ("acos",),
        lambda: classes(lambda z: functional.cosine_similarity(z, z * 2, dim=1).clamp(-1, 1).acos()[:, None] + z),
        lambda: classes(lambda z: functional.cosine_similarity(z, z * 2, dim=1).clamp(-0.99, 0.99).acos()[:, None] + z),
    ),
    "where over sqrt": Case(
        "NaN of the branch that where does not take", ("non_finite",), ("sqrt",),
        lambda: classes(lambda z: torch.where(z > 0, z.sqrt(), torch.zeros_like(z))),
        lambda: classes(lambda z: torch.where(z > 0, torch.where(z > 0, z, torch.ones_like(z)).sqrt(), 0 * z)),
    ),
    "distance of equals": Case(
        "infinite slope of sqrt at 0", ("non_finite",), ("sqrt",), lambda: siamese(0.0), lambda: siamese(1e-6)
    ),
    "query without a key": Case(
        "softmax over a masked row", ("non_finite",), ("softmax",),
        lambda: attention(sees_itself=False), lambda: attention(sees_itself=True),
    ),
    "Adam in half precision": Case(
        "eps is 0 in float16", ("optimizer_step",), ("eps",), lambda: half(1e-8), lambda: half(1e-4)
    ),
    "one constant": Case(
        "symmetry", ("symmetry",), ("copies",),
        lambda: constant(is_constant=True), lambda: constant(is_constant=False),
    ),
    "VAE on raw counts": Case(
        "exp overflows; inputs in the hundreds", ("non_finite", "input_scale"), ("exp", "input"),
        lambda: counts(1.0), lambda: counts(1 / 400),
    ),
    "softmax, cross-entropy": Case(
        "doubled softmax", ("output_activation",), ("softmax",), lambda: classes(last=nn.Softmax(1)), lambda: classes()
    ),
    "softmax, nll": Case(
        "probabilities in place of their logarithms", ("output_activation",), ("nll",),
        lambda: classes(last=nn.Softmax(1), loss="nll"), lambda: classes(last=nn.LogSoftmax(1), loss="nll"),
    ),
    "softmax over the batch": Case(
        "the axis is that of the samples", ("output_activation",), ("samples",),
        lambda: classes(last=nn.Softmax(0)), lambda: classes(),
    ),
    "labels of ±1": Case(
        "targets outside of the loss's range", ("output_activation",), ("targets",),
        lambda: signed(low=-1.0), lambda: signed(low=0.0),
    ),
    "ReLU at the output": Case(
        "negative targets cannot be reached", ("output_activation",), ("relu",),
        lambda: values(nn.ReLU(), bumpy), lambda: values(nn.Identity(), bumpy),
    ),
    "log(1 − D)": Case(
        "the loss saturates", ("saturated_activation",), ("sigmoid",),
        lambda: generator(is_saturating=True), lambda: generator(is_saturating=False),
    ),
    "norm of one element": Case(
        "one channel a group on a 1×1 map", ("batch_statistics", "vanishing_signal"), ("one element", "group_norm"),
        lambda: grouped(32), lambda: grouped(4),
    ),
    "tied table, std 1": Case(
        "scale of the table", ("initial_loss",), ("loss is",), lambda: language(1.0), lambda: language(0.05)
    ),
    "layers in a list": Case(
        "not registered", ("unregistered_parameter",), ("hidden",),
        lambda: listed(list), lambda: listed(nn.ModuleList),
    ),
    "raw inputs": Case(
        "inputs in the hundreds", ("input_scale",), ("input",),
        lambda: values(nn.Identity(), bumpy, inputs=300.0), lambda: values(nn.Identity(), bumpy),
    ),
    "raw targets": Case(
        "targets in the thousands", ("target_scale",), ("target",),
        lambda: values(nn.Identity(), lambda x: 5000 * bumpy(x)), lambda: values(nn.Identity(), bumpy),
    ),
    "(n, 1) against (n,)": Case(
        "broadcasting", ("target_shape",), ("(128, 128)",), lambda: flat(is_flat=True), lambda: flat(is_flat=False)
    ),
    "killed by a large step": Case(
        "dead units", ("dead_units", "vanishing_signal", "zero_gradient"), ("units", "relu"),
        lambda: killed(3.0), lambda: killed(1e-2),
    ),
    "no straight-through": Case(
        "argmin ends the graph", ("unused_parameter", "zero_gradient"), ("argmin",),
        lambda: quantised(is_straight=False), lambda: quantised(is_straight=True),
    ),
    "two terms": Case(
        "one term drowns the other", ("loss_balance",), ("equation",), lambda: terms(1e3), lambda: terms(1.0)
    ),
    "std 1 and a sum": Case(
        "weights and sum are too large for the rate", ("learning_rate", "update_ratio", "does_not_learn"), ("",),
        lambda: wide(1.0, is_summed=True, lr=1e-4), lambda: wide(0.1, is_summed=False, lr=1e-2),
    ),
    "evaluation of a fresh norm": Case(
        "statistics that were never updated", ("batch_statistics",), ("running statistics",),
        lambda: fresh("eval"), lambda: fresh("train"),
    ),
    "one sample repeated": Case(
        "equal inputs with different targets", ("batch_statistics",), ("same input",),
        lambda: contradicting(is_same=True), lambda: contradicting(is_same=False),
    ),
    "a stale optimizer": Case(
        "it holds another model's parameters", ("optimizer_misses_parameter",), ("none of the model",),
        lambda: stale(is_stale=True), lambda: stale(is_stale=False),
    ),
}  # fmt: skip
