"""Jinja as chat templates expect it: in a sandbox, with the filters and functions that transformers gives them, and
within the limits of template_limits."""

from __future__ import annotations

import functools
import json
from collections.abc import Callable, Mapping, Sequence
from datetime import datetime
from typing import Any

import jinja2
import jinja2.ext
import jinja2.meta
from jinja2 import TemplateError, nodes
from jinja2.parser import Parser
from jinja2.sandbox import ImmutableSandboxedEnvironment
from jinja2.visitor import NodeTransformer

from inflight.runtime.text.chat.template_limits import Limits

__all__ = ["TemplateError", "compile_template", "render", "variables_of"]

_LIMITS = Limits()
# Filters that neither write values out nor compare them: shared parts of a value cost them nothing.
_LIGHT = {"attr", "count", "d", "default", "first", "items", "last", "length", "list", "map", "reject", "rejectattr"}
_LIGHT |= {"reverse", "select", "selectattr", "batch", "slice"}
# Tests that look at the kind of a value alone.
_LIGHT_TESTS = {
    "defined",
    "undefined",
    "none",
    "string",
    "mapping",
    "iterable",
    "sequence",
    "number",
    "boolean",
    "true",
}
_LIGHT_TESTS |= {"false", "integer", "float", "callable", "filter", "test"}


def compile_template(source: str) -> jinja2.Template:
    """Raises TemplateError for a source that is no template."""
    environment = _environment()
    with _LIMITS.rendering():
        tree = _Counted().visit(environment.parse(source))
        tree.set_environment(environment)
        return environment.from_string(tree)


def variables_of(source: str) -> set[str]:
    """The names that a template takes from outside. Raises TemplateError as compile_template does."""
    return set(jinja2.meta.find_undeclared_variables(_environment().parse(source)))


def render(template: jinja2.Template, values: Mapping[str, Any]) -> str:
    """Raises what the template raises, TemplateError where it exceeds the limits."""
    with _LIMITS.rendering():
        return template.render(**values)


class _GenerationBlocks(jinja2.ext.Extension):
    """`{% generation %}` marks what the assistant wrote, for training; here it only renders its body."""

    tags = {"generation"}  # noqa: RUF012 (the type that Jinja declares)

    def parse(self, parser: Parser) -> list[nodes.Node]:
        next(parser.stream)
        return parser.parse_statements(("name:endgeneration",), drop_needle=True)


class _Counted(NodeTransformer):
    """Adds to a template what its limits need to see: every turn of a loop, `~`, and comparisons of two values."""

    def visit_For(self, node: nodes.For) -> nodes.For:
        self.generic_visit(node)
        node.body = [nodes.ExprStmt(_call("tick", [], node.lineno), lineno=node.lineno), *node.body]
        return node

    def visit_Concat(self, node: nodes.Concat) -> nodes.Expr:
        self.generic_visit(node)
        return _call("concatenated", node.nodes, node.lineno)

    def visit_Compare(self, node: nodes.Compare) -> nodes.Compare:
        self.generic_visit(node)
        operands = [node.expr, *(operand.expr for operand in node.ops)]
        if not any(isinstance(operand, nodes.Const) for operand in operands):
            node.expr = _call("weighed", [node.expr], node.lineno)
            for operand in node.ops:
                operand.expr = _call("weighed", [operand.expr], node.lineno)
        return node


def _call(name: str, arguments: list[nodes.Expr], lineno: int) -> nodes.Call:
    return nodes.Call(nodes.EnvironmentAttribute(name), arguments, [], None, None, lineno=lineno)


class _Environment(ImmutableSandboxedEnvironment):
    """The sandbox, which also counts."""

    intercepted_binops = frozenset({"+", "*", "**", "%"})
    concat = staticmethod(_LIMITS.join)

    def call_binop(self, context: Any, operator: str, left: Any, right: Any) -> Any:
        _LIMITS.check_operation(operator, left, right)
        return _LIMITS.made(super().call_binop(context, operator, left, right))

    def call(__self, __context: Any, __obj: Any, *args: Any, **kwargs: Any) -> Any:
        if isinstance(getattr(__obj, "__self__", None), str):
            _check_arguments(__obj.__self__, args, kwargs)
            _LIMITS.spend(_growth(__obj.__name__, (__obj.__self__, *args), kwargs))
            if __obj.__name__ in ("format", "format_map"):
                _LIMITS.check_format(__obj.__self__)
        return _LIMITS.made(super().call(__context, __obj, *args, **kwargs))

    def tick(self) -> None:
        """Called in every turn of a loop; `call` has looked at the time."""

    def weighed(self, value: Any) -> Any:
        """`value`, gone through as comparing it would."""
        if isinstance(value, list | tuple | dict):
            _LIMITS.weigh([value])
        return value

    def concatenated(self, *values: Any) -> str:
        """`~`: the values as text, one after the other."""
        _LIMITS.weigh(values)
        return "".join(map(str, values))


def _environment() -> _Environment:
    """The filters and functions that chat templates may expect."""
    environment = _Environment(
        trim_blocks=True,
        lstrip_blocks=True,
        optimized=False,
        finalize=_written,
        extensions=[_GenerationBlocks, jinja2.ext.loopcontrols],
    )
    environment.globals.pop("lipsum", None)
    environment.filters["tojson"] = _to_json
    environment.filters = {name: _limited(name, each, _LIGHT) for name, each in environment.filters.items()}
    environment.tests = {name: _limited(name, each, _LIGHT_TESTS) for name, each in environment.tests.items()}
    environment.globals["raise_exception"] = _raise_exception
    environment.globals["strftime_now"] = lambda layout: datetime.now().strftime(layout)
    return environment


@jinja2.pass_context
def _written(context: Any, value: Any) -> Any:
    """Of each expression that is written; the context keeps Jinja from doing it when it compiles."""
    _LIMITS.weigh([value])
    return value


def _limited(name: str, function: Any, light: set[str]) -> Callable[..., Any]:
    """A filter or a test, within the limits."""

    @functools.wraps(function)
    def run(*args: Any, **kwargs: Any) -> Any:
        _LIMITS.tick()
        values = args[1:] if hasattr(function, "jinja_pass_arg") else args
        if name not in light:
            _check_arguments(values[0] if values else None, values[1:], kwargs)
            _LIMITS.weigh([*values, *kwargs.values()])
            if name == "format":
                _LIMITS.check_format(str(values[0]))
            _LIMITS.spend(_growth(name, values, kwargs))
        elif name in ("batch", "slice"):
            _LIMITS.check_counts([*values[1:], *kwargs.values()])
        return _LIMITS.made(function(*args, **kwargs))

    return run


def _check_arguments(value: Any, args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> None:
    """Of a method of a string or of a filter: no counts beyond reason."""
    _LIMITS.check_counts([*args, *kwargs.values()])
    if isinstance(value, str):
        counts = [abs(each) for each in (*args, *kwargs.values()) if isinstance(each, int)]
        _LIMITS.spend(sum(counts))


def _growth(name: str, values: Sequence[Any], named: Mapping[str, Any]) -> int:
    """How many characters a filter or a method of strings adds at most, of those that put something in many places."""
    value, arguments = values[0] if values else "", [*values[1:], *named.values()]
    longest = max(
        (len(each) if isinstance(each, str) else each for each in arguments if isinstance(each, str | int)), default=0
    )
    if name == "replace" and arguments:
        return str(value).count(str(arguments[0])) * longest
    if name in ("indent", "expandtabs"):
        return (str(value).count("\n") + str(value).count("\t") + 1) * max(longest, 8)
    if name == "wordwrap":
        return len(str(value)) * max((len(each) for each in arguments if isinstance(each, str)), default=1)
    if name == "join":
        separator = value if isinstance(value, str) else "".join(each for each in arguments if isinstance(each, str))
        return len(separator) * max((len(each) for each in values if isinstance(each, list | tuple)), default=1)
    return 0


def _raise_exception(message: str) -> None:
    raise jinja2.TemplateError(message)


def _to_json(
    value: Any,
    ensure_ascii: bool = False,
    indent: int | None = None,
    separators: tuple[str, str] | None = None,
    sort_keys: bool = False,
) -> str:
    """Plain JSON. Jinja's own filter escapes it for HTML."""
    return json.dumps(value, ensure_ascii=ensure_ascii, indent=indent, separators=separators, sort_keys=sort_keys)
