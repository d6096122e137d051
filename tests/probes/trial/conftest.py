"""The engine's own second derivatives and one thread, as for every test of a probe."""

from tests.support.networks.torch_settings import one_thread, own_second_derivatives

__all__ = ["one_thread", "own_second_derivatives"]
