"""Keras has one backend in a process: without KERAS_BACKEND there is nothing to test."""

from __future__ import annotations

import os

collect_ignore_glob = [] if "KERAS_BACKEND" in os.environ else ["test_*.py"]

if os.environ.get("KERAS_BACKEND") == "tensorflow":
    import tensorflow as tf

    tf.config.set_logical_device_configuration(
        tf.config.list_physical_devices("CPU")[0], [tf.config.LogicalDeviceConfiguration()] * 2
    )
