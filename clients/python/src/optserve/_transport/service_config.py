"""The recommended gRPC service config, ``service_config.json``, which clients in any language can use.

It sends all calls to one server, which holds the session, and lets gRPC retry reads.
"""

from __future__ import annotations

import json
from importlib import resources
from typing import Any


def load_service_config() -> dict[str, Any]:
    """Loads the service config from the file."""
    text = resources.files("optserve").joinpath("service_config.json").read_text(encoding="utf-8")
    config: dict[str, Any] = json.loads(text)
    return config


def make_service_config(*, retries: bool) -> str:
    """Returns the service config of a channel of this client.

    Args:
        retries: whether gRPC tries calls again. Where `optserve.Retry` does, it must not: each
            attempt of the one would be several of the other.
    """
    config = load_service_config()
    if not retries:
        del config["retryThrottling"]
        for method in config["methodConfig"]:
            del method["retryPolicy"]
        config["methodConfig"] = [method for method in config["methodConfig"] if method.keys() > {"name"}]
    return json.dumps(config)
