"""What a finished run is worth: robustness, calibration, explanations. Nothing here trains."""
