"""One file per suite; a suite is a function `cases(setting)` that yields cases to time."""
