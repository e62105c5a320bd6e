"""Local dynamics: Jacobians, spectra, exponents, fixed points."""
