"""Learnable targets for inputs without targets."""

from __future__ import annotations

import torch
from torch import nn

from gradinspect.probes.verify.teacher import teacher_target
from tests.support.networks.probed import classes, mlp, normal, section_input


def test_the_teacher_keeps_shape_dtype_and_range_of_the_drawn_target() -> None:
    for target, loss in (
        (classes(5, 64), "cross_entropy"), (normal(64, 5), "mse"), ((normal(64, 5) > 0).double(), "bce_with_logits")
    ):  # fmt: skip
        taught = teacher_target(section_input(mlp(8, 5), normal(64, 8), target, loss=loss))
        assert taught is not None
        assert (taught.shape, taught.dtype) == (target.shape, target.dtype)
        if loss == "bce_with_logits":
            assert set(taught.unique().tolist()) == {0.0, 1.0}


def test_the_same_seed_gives_the_same_targets() -> None:
    first, again, other = (
        teacher_target(section_input(mlp(8, 5), normal(64, 8), classes(5, 64), seed=seed)) for seed in (3, 3, 4)
    )
    assert first is not None
    assert again is not None
    assert other is not None
    assert torch.equal(first, again)
    assert not torch.equal(first, other)


def test_equal_inputs_get_equal_targets_unlike_drawn_targets() -> None:
    x = normal(64, 8)
    x[32:] = x[:32]
    drawn = classes(5, 64)
    taught = teacher_target(section_input(mlp(8, 5), x, drawn))
    assert taught is not None
    assert torch.equal(taught[32:], taught[:32])
    assert not torch.equal(drawn[32:], drawn[:32])


def test_a_class_for_each_token_depends_on_that_token_alone() -> None:
    model = nn.Sequential(nn.Embedding(6, 4), nn.Linear(4, 3))
    tokens = torch.randint(0, 6, (16, 7), generator=torch.Generator().manual_seed(0))
    target = torch.randint(0, 3, (16, 7), generator=torch.Generator().manual_seed(1))
    taught = teacher_target(section_input(model, tokens, target))
    assert taught is not None
    for token in range(6):
        assert len(taught[tokens == token].unique()) == 1


def test_a_network_generalises_to_unseen_samples_of_the_teacher() -> None:
    x = normal(600, 8)
    taught = teacher_target(section_input(mlp(8, 4), x, classes(4, 600)))
    assert taught is not None
    model = mlp(8, 64, 4)
    optimizer = torch.optim.Adam(model.parameters(), lr=0.02)
    for _ in range(150):
        loss = nn.functional.cross_entropy(model(x[:400]), taught[:400])
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    right = float((model(x[400:]).argmax(1) == taught[400:]).double().mean())
    frequent = float(taught[400:].bincount().max()) / 200
    assert right > frequent + 0.15  # five standard errors of a share of 200
