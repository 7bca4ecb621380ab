"""The tools that people come from, each with its names, and which of their names a command of this one reads."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass
from functools import cached_property

from inflight.migration.offline import CALLS, OFFLINE
from inflight.migration.row import Row, honoured, letters, of_gib, refused
from inflight.migration.sampling import SAMPLING, STRUCTURED
from inflight.migration.sglang import LAUNCH_SERVER
from inflight.migration.tensorrt_llm import BUILD, CONVERT, QUANTIZE
from inflight.migration.tgi import LAUNCHER
from inflight.migration.vllm import ENGINE, SERVE


@dataclass(frozen=True, eq=False)
class Source:
    """`verb`: the command here that reads these flags; "" for keywords of a class."""

    tool: str
    verb: str
    rows: tuple[Row, ...]

    @cached_property
    def by_name(self) -> Mapping[str, Row]:
        """Rows by every spelling, as `letters` has it; short names keep their hyphen, since -p and --p differ."""
        found: dict[str, Row] = {}
        for row in self.rows:
            for name in row.names:
                found.setdefault(letters(name) if name.startswith("--") else name, row)
        return found


VLLM = Source("vllm serve", "serve", (*SERVE, *ENGINE))
TGI = Source("text-generation-launcher", "serve", LAUNCHER)
SGLANG = Source("sglang.launch_server", "serve", LAUNCH_SERVER)
VLLM_OFFLINE = Source("vllm.LLM", "", OFFLINE)
VLLM_CALLS = Source("vllm.LLM.generate", "", CALLS)
VLLM_SAMPLING = Source("vllm.SamplingParams", "", SAMPLING)
VLLM_STRUCTURED = Source("vllm.StructuredOutputsParams", "", STRUCTURED)

# Of two tools that have a name the first one counts, unless the other names of the line are the other's.
SOURCES: tuple[Source, ...] = (
    VLLM,
    TGI,
    SGLANG,
    Source("trtllm-build", "build-engine", BUILD),
    Source("convert_checkpoint.py", "convert", CONVERT),
    Source("quantize.py", "convert", QUANTIZE),
    VLLM_OFFLINE,
    VLLM_CALLS,
    VLLM_SAMPLING,
    VLLM_STRUCTURED,
)

# Settings of other servers that are environment variables alone; those of TGI are its flags in capitals.
ENVIRONMENT: Mapping[str, Row] = {
    row.names[0].lstrip("-"): row
    for row in (
        *honoured("VLLM_CPU_KVCACHE_SPACE=", "--kv-cache-bytes", "in GiB", read=of_gib),
        *refused(
            "the server has no authentication. Put a proxy in front, and unset the variable.",
            "VLLM_API_KEY= SGLANG_API_KEY=",
        ),
        *honoured("SGLANG_HICACHE_FILE_BACKEND_STORAGE_DIR=", "--kv-offload-dir"),
    )
}
# What says that a process was set up for text-generation-launcher: its other variables have names like PORT.
TGI_MARK = "MODEL_ID"


def sources_of(verb: str) -> tuple[Source, ...]:
    return tuple(source for source in SOURCES if verb and source.verb == verb)


def ranked(verb: str, names: Collection[str]) -> list[Source]:
    """The sources of a command, first the one whose own names are among `names` (as `letters` has them)."""
    sources = sources_of(verb)
    known = [set(source.by_name) & set(names) for source in sources]
    counts = [
        len(mine - set().union(*(other for at, other in enumerate(known) if at != place)))
        for place, mine in enumerate(known)
    ]
    order = sorted(range(len(sources)), key=lambda place: -counts[place])
    return [sources[place] for place in order]
