"""The questions of "What Are Bayesian Neural Network Posteriors Really Like?" (Izmailov et al. 2021,
arXiv:2104.14421), each as one command that ends in figures, a table and sentences with numbers.

Shapes: S draws, C chains, D parameters, T test points, K classes.
"""
