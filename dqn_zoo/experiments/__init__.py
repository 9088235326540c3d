"""Many runs at once: sweeps, what their scores say together, tuning, plots, reports."""
