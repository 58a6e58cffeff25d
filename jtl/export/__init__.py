"""A finished run in forms that others read, each checked against the run before it counts."""

from jtl.export.run import FORMATS, export_run
from jtl.export.weights import export_safetensors

__all__ = ["FORMATS", "export_run", "export_safetensors"]
