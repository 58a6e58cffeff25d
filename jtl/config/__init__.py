"""Reading, checking and writing configuration of any frozen dataclass; knows no option itself."""

from jtl.config.build import build, to_dict
from jtl.config.document import Document, dotted, override, read_document
from jtl.config.write import difference, digest, json_schema, options_of, to_yaml

__all__ = [
    "Document",
    "build",
    "difference",
    "digest",
    "dotted",
    "json_schema",
    "options_of",
    "override",
    "read_document",
    "to_dict",
    "to_yaml",
]
