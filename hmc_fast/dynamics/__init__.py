"""How a chain moves: integrators, gradient steps, the Metropolis test, minibatches, schedules."""
