"""Ctrl-C in the midst of a run."""

import os
import signal

import hmc_fast


def interrupt_at(monkeypatch, iteration):
    """Makes Ctrl-C arrive during one iteration."""
    real = hmc_fast.engine.runner.Loop._advance

    def iterate(self, bar, number):
        if self.iteration <= iteration < self.iteration + number:
            os.kill(os.getpid(), signal.SIGINT)
        real(self, bar, number)

    monkeypatch.setattr(hmc_fast.engine.runner.Loop, "_advance", iterate)
