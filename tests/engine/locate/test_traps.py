"""Every known trap: the operation, its line and its reason, eager and in TorchScript; and near misses that are not."""

from __future__ import annotations

import warnings

import pytest
import torch
from torch import nn
from torch.nn import functional

from gradinspect.contracts.report.operations import Fault
from gradinspect.engine.locate.locate import UnhealthyPass, locate
from gradinspect.engine.network.parameters import ParameterIndex
from gradinspect.engine.network.reproducible import ordinary_graphs
from tests.support.networks.inspected import scripted
from tests.support.traps import TRAPS, Net, Trap

# The traceback of a loaded file leaves out the line that calls these functions of torch.
WITHOUT_LINE = ("CdistAtZero", "DeadRelu")
FORMS = ("eager", "scripted", "loaded")


def in_form(net: Net, form: str) -> nn.Module:
    """Return the network as it is, scripted, or scripted, saved and loaded."""
    if form == "eager":
        return net
    if form == "loaded":
        return scripted(net)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # torch.jit is deprecated upstream
        return torch.jit.script(net)


def faults_of(trap: Trap, form: str, *, safe: bool) -> tuple[Fault, ...]:
    torch.manual_seed(0)
    model = in_form(trap.net(safe), form)
    x, y = torch.randn(6, 4), torch.randint(0, 3, (6,))
    with ordinary_graphs(), warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of a variance over one element, and of a scalar with a graph
        return locate(
            UnhealthyPass(
                model=model, parameters=ParameterIndex(model), inputs=(x,), target=y,
                loss_of=lambda output: functional.cross_entropy(output, y),
            )
        )  # fmt: skip


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("trap", TRAPS, ids=lambda trap: trap.net.__name__)
def test_the_operation_of_a_trap_is_named_with_its_line_and_reason(trap: Trap, form: str) -> None:
    faults = faults_of(trap, form, safe=False)
    assert faults
    operation = faults[0].operation
    assert operation.name in trap.operations
    assert operation.reason in trap.reasons
    if form == "loaded" and trap.net.__name__ in WITHOUT_LINE:
        return
    assert operation.source is not None
    assert operation.source.file.endswith("tests/support/traps.py")
    assert operation.source.line == trap.line
    assert operation.source.code is None or "# here" in operation.source.code or form != "eager"


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("trap", TRAPS, ids=lambda trap: trap.net.__name__)
def test_the_mended_network_of_a_trap_has_no_fault(trap: Trap, form: str) -> None:
    assert faults_of(trap, form, safe=True) == ()
