"""Parse YAML that others wrote, with limits on size and nesting."""

from __future__ import annotations

from typing import Any

import yaml

MAX_YAML_CHARACTERS = 2**22
"""PyYAML reads about a hundred thousand characters in a second."""
MAX_NODES = 20_000
"""Maximum number of keys and values of a YAML document, with aliases replaced by what they refer to."""
MAX_DEPTH = 50
"""Maximum nesting of a YAML document."""
MAX_DIGITS = 1000
"""Maximum length of a number; the time of parsing numbers to base 60 (1:59:59) grows with its square."""

_NUMBERS = {"tag:yaml.org,2002:int", "tag:yaml.org,2002:float"}

_CONSTRUCTION_ERRORS = (
    AttributeError,
    IndexError,
    KeyError,
    OverflowError,
    TypeError,
    ValueError,
)
"""The errors of PyYAML for values that do not match their tag, such as the date 2001-99-99."""


class _UniqueKeyLoader(yaml.SafeLoader):
    """A safe loader that reads as DVC does, and stops at the maximum number of keys and values.

    It rejects duplicate keys, and only ``true`` and ``false`` are booleans (YAML 1.2): ``off``, ``yes`` and ``no``
    (also the code of a language) are words.
    """

    _count = 0
    yaml_implicit_resolvers = {  # noqa: RUF012  # its stub declares no class variable
        first: [one for one in resolvers if first in "tTfF" or one[0] != "tag:yaml.org,2002:bool"]
        for first, resolvers in yaml.SafeLoader.yaml_implicit_resolvers.items()
    }

    def compose_node(self, parent: yaml.Node | None, index: Any) -> yaml.Node | None:
        self._count += 1
        if self._count > MAX_NODES:  # each takes 400 bytes and 35 microseconds
            mark = self.peek_event().start_mark  # type: ignore[no-untyped-call]  # missing in its stub
            raise yaml.MarkedYAMLError(problem="too many values", problem_mark=mark)
        return super().compose_node(parent, index)

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Any, Any]:
        seen: set[Any] = set()
        for key, _ in node.value:
            if isinstance(key, yaml.ScalarNode):
                if key.value in seen:
                    message = f"duplicate key {key.value!r}"
                    raise yaml.constructor.ConstructorError(None, None, message, key.start_mark)
                seen.add(key.value)
        return super().construct_mapping(node, deep)


def parse_yaml(text: str) -> Any:
    """Parse a YAML document of plain types.

    Raises:
        yaml.YAMLError: If it is not valid YAML, has a key twice, is nested too deeply, or is too large; aliases count
            as often as they occur. The error is a `yaml.MarkedYAMLError` if its place is known.
    """
    if len(text) > MAX_YAML_CHARACTERS:
        raise yaml.YAMLError(f"the document has more than {MAX_YAML_CHARACTERS} characters")
    try:
        loader = _UniqueKeyLoader(text)
        try:
            node = loader.get_single_node()
            if node is None:
                return None
            _measure(node, {})
            return loader.construct_document(node)
        finally:
            loader.dispose()
    except RecursionError:
        raise yaml.YAMLError("the document is nested too deeply") from None
    except _CONSTRUCTION_ERRORS as error:
        raise yaml.YAMLError(f"a value cannot be read ({error})") from error


def _measure(node: yaml.Node, known: dict[yaml.Node, tuple[int, int]]) -> tuple[int, int]:
    """Return the number of nodes below a node, with aliases replaced, and their depth.

    Raises:
        yaml.MarkedYAMLError: If one of the two exceeds its limit, or an alias refers to a value that contains it.
    """
    if node not in known:
        known[node] = (MAX_NODES + 1, 0)  # holds while the node is measured: an alias to itself has no end
        pairs = node.value if isinstance(node, yaml.CollectionNode) else ()
        children = [child for pair in pairs for child in (pair if isinstance(pair, tuple) else (pair,))]
        sizes = [_measure(child, known) for child in children]
        known[node] = (1 + sum(size for size, _ in sizes), 1 + max((depth for _, depth in sizes), default=0))
    if node.tag in _NUMBERS and len(node.value) > MAX_DIGITS:
        raise yaml.MarkedYAMLError(problem="a number is too long", problem_mark=node.start_mark)
    size, depth = known[node]
    if size > MAX_NODES:
        raise yaml.MarkedYAMLError(problem="too many values, or aliases of aliases", problem_mark=node.start_mark)
    if depth > MAX_DEPTH:
        raise yaml.MarkedYAMLError(problem="values are nested too deeply", problem_mark=node.start_mark)
    return size, depth
