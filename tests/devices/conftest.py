"""The pretend accelerator is known before any test of the process takes a gradient: autograd makes
a queue for each device at its first backward pass, and none later."""

from tests.support import accelerator

accelerator.install()
