"""What samplers without a Metropolis test do to a Gaussian: affine maps, and the moments they leave."""

import numpy as np
from scipy.linalg import expm

EPS, FRICTION, TEMPERATURE = 0.35, 1.5, 1.4


class Step:
    """An affine map of (theta, m, 1) in D + D + 1 numbers, and the covariance of the noise it has added."""

    def __init__(self, dim):
        self.dim, self.matrix = dim, np.eye(2 * dim + 1)
        self.noise = np.zeros_like(self.matrix)

    def _then(self, matrix, std=0.0, where=slice(0)):
        self.matrix, self.noise = matrix @ self.matrix, matrix @ self.noise @ matrix.T
        self.noise[where, where] += std**2 * np.eye(self.dim) if std else 0.0

    def drift(self, h):
        matrix = np.eye(2 * self.dim + 1)
        matrix[: self.dim, self.dim : -1] = h * np.eye(self.dim)
        self._then(matrix)

    def kick(self, h, force):
        """force: b, H of the gradient b - H theta."""
        matrix = np.eye(2 * self.dim + 1)
        matrix[self.dim : -1, : self.dim], matrix[self.dim : -1, -1] = -h * force[1], h * force[0]
        self._then(matrix)

    def refresh(self, share, std):
        matrix = np.eye(2 * self.dim + 1)
        matrix[self.dim : -1, self.dim : -1] *= share
        self._then(matrix, std, slice(self.dim, -1))

    def ornstein_uhlenbeck(self, h):
        share = np.exp(-FRICTION * h)
        self.refresh(share, np.sqrt(1 - share**2))

    def flow(self, h):
        """dtheta = m dt, dm = -gamma m dt + sqrt(2 gamma) dW, by exponentials of matrices (Van Loan 1978)."""
        drift, diffusion = np.array([[0.0, 1.0], [0.0, -FRICTION]]), np.diag([0.0, 2 * FRICTION])
        zero = np.zeros((2, 2))
        both = expm(h * np.block([[-drift, diffusion], [zero, drift.T]]))
        map_, one = both[2:, 2:].T, np.eye(self.dim)
        matrix = np.eye(2 * self.dim + 1)
        matrix[:-1, :-1] = np.kron(map_, one)
        self._then(matrix)
        self.noise[:-1, :-1] += np.kron(map_ @ both[:2, 2:], one)

    def langevin(self, eps, force):
        matrix = np.eye(2 * self.dim + 1)
        matrix[: self.dim, : self.dim] -= eps / 2 * force[1]
        matrix[: self.dim, -1] = eps / 2 * force[0]
        self._then(matrix, np.sqrt(eps), slice(0, self.dim))


def sgld(step, eps, force):
    step.langevin(eps, force)


def sghmc(step, eps, force):
    step.refresh(1 - eps * FRICTION, np.sqrt(2 * eps * FRICTION))
    step.kick(eps, force)
    step.drift(eps)


def baoab(step, eps, force):
    step.kick(eps / 2, force)
    step.drift(eps / 2)
    step.ornstein_uhlenbeck(eps)
    step.drift(eps / 2)
    step.kick(eps / 2, force)


def obabo(step, eps, force):
    step.ornstein_uhlenbeck(eps / 2)
    step.kick(eps / 2, force)
    step.drift(eps)
    step.kick(eps / 2, force)
    step.ornstein_uhlenbeck(eps / 2)


def ubu(step, eps, force):
    step.flow(eps / 2)
    step.kick(eps, force)
    step.flow(eps / 2)


def stationary(dim, algorithm, eps, epochs):
    """Mean and variance of theta at the end of an epoch. epochs: the ways in which one may run, equally likely,
    each a list of forces, one per step."""
    steps = []
    for forces in epochs:
        steps.append(Step(dim))
        for force in forces:
            algorithm(steps[-1], eps, force)
    matrices, noises = np.stack([s.matrix for s in steps]), np.mean([s.noise for s in steps], 0)
    moments = np.zeros_like(noises)  # of (theta, m, 1), second order
    moments[-1, -1] = 1.0
    for _ in range(20_000):
        previous = moments
        moments = np.mean(matrices @ moments @ np.swapaxes(matrices, 1, 2), 0) + noises
        if np.allclose(moments, previous, rtol=1e-12, atol=1e-14):
            break
    mean = moments[:dim, -1]
    return mean, np.diag(moments)[:dim] - mean**2
