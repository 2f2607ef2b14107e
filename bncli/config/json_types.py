"""Types of JSON documents, declared once."""

from typing import Any, TypeAlias

# A value of a JSON document: what json.loads returns and json.dumps takes.
JSON: TypeAlias = Any
Document: TypeAlias = dict[str, JSON]
