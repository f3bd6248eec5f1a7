"""Losses of real numbers: functions of the difference of prediction and target."""
