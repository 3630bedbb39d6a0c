"""What perturbations do to cells: screens of any convention, metrics, baselines, drawn cells.

Plain NumPy and SciPy over `storage`; training recipes and jobs stand on it.
"""
