"""What this machine can do, and whether it does it right: `python -m hmc_fast.doctor`."""
