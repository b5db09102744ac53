"""Configurations: reading a ``clipper.toml``, checking it, and bringing an engine to what it says.

>>> from pathlib import Path
>>> from clipper.config import parse_config
>>> config = parse_config({"models": {"net": {"source": "net.onnx", "slo": "20ms"}}}, Path("/srv"))
>>> config.models["net"].slo
0.02
"""

from .applying import Applier, Outcome, check_sources, create_application, deploy_model
from .differences import Difference, changed_keys, difference
from .kinds import Kind, Thread
from .problems import ConfigError
from .reading import Config, parse_config, read_config, read_model
from .sections import ApplicationConfig, ModelConfig, ServerConfig, keys_of

__all__ = [
    "ApplicationConfig",
    "Applier",
    "Config",
    "ConfigError",
    "Difference",
    "Kind",
    "ModelConfig",
    "Outcome",
    "ServerConfig",
    "Thread",
    "changed_keys",
    "check_sources",
    "create_application",
    "deploy_model",
    "difference",
    "keys_of",
    "parse_config",
    "read_config",
    "read_model",
]
