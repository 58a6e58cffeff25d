"""What predictions are worth: every metric, its interval, calibration, and two runs compared."""
