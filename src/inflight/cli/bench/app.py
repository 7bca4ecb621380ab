"""`inflight bench`: benchmarks of an engine and of a server."""

from __future__ import annotations

import typer
from typer.core import TyperGroup

from inflight.cli.bench.engine import latency, throughput
from inflight.cli.bench.serve import serve
from inflight.cli.options.near_misses import Command


class _EngineByDefault(TyperGroup):
    """`bench ENGINE` is `bench latency ENGINE`."""

    def parse_args(self, ctx: typer.Context, args: list[str]) -> list[str]:  # type: ignore[override]
        if args and args[0] not in {*self.commands, *ctx.help_option_names}:
            args = ["latency", *args]
        return super().parse_args(ctx, args)


bench = typer.Typer(
    cls=_EngineByDefault,
    help="Benchmark an engine (`bench ENGINE`, `bench throughput ENGINE`) or a running server (`bench serve`).",
    no_args_is_help=True,
    rich_markup_mode="rich",
)
bench.command("latency", cls=Command, no_args_is_help=True)(latency)
bench.command("throughput", cls=Command, no_args_is_help=True)(throughput)
bench.command("serve", cls=Command)(serve)
