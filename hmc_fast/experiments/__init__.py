"""The experiments of "What Are Bayesian Neural Network Posteriors Really Like?", one command each.

Izmailov et al. 2021, arXiv:2104.14421. Every command writes a page of figures, tables and claims with numbers.

Shapes: S draws, C chains, D parameters, T test points, K classes.
"""
