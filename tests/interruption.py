"""A signal in the midst of a run."""

import os
import signal

import hmc_fast


def interrupt_at(monkeypatch, iteration, number=signal.SIGINT):
    """Makes Ctrl-C, or another signal, arrive during one iteration."""
    real = hmc_fast.engine.runner.Loop._advance

    def iterate(self, bar, iterations):
        if self.iteration <= iteration < self.iteration + iterations:
            os.kill(os.getpid(), number)
        real(self, bar, iterations)

    monkeypatch.setattr(hmc_fast.engine.runner.Loop, "_advance", iterate)
