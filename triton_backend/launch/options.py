"""How an engine is served."""

from __future__ import annotations

from typing import Any

from pydantic import Field

from inflight.errors import InflightError
from inflight.records import Record
from inflight.runtime.kv_cache.budget import KvCacheBudget
from inflight.runtime.kv_cache.offload.config import KvOffload
from inflight.runtime.sampling.watermark import Watermark
from inflight.runtime.scheduler.admission import Policy, Waiting
from inflight.triton_backend.launch.supervision.supervisor import Restart
from inflight.triton_backend.models.names import ServedModel
from inflight.triton_backend.openai.limits import MAX_BODY_BYTES


class ServeOptions(Record):
    """How to serve. `threads` None: every core; KV limits as in KvCacheBudget and KvOffload; `model_name` is what
    answers say; any name is taken in requests unless `strict_model_name`. `tool_call_parser`: the form in which the
    model calls tools; None: the one that its chat template teaches. `reasoning_parser`: how it marks its reasoning,
    likewise. `chat_template`: the source of one that takes the place of the model's; `template_variables`: of chats
    that do not set them.
    `models`: more than one engine, by name; `load_models`: those of them that are loaded at first, None: all.
    `allowed_origins`: web pages that may call the API (CORS). `watermark`: that of texts of TGI's clients who ask for
    one. `waiting`: as in SchedulerConfig.

    `drain_s`: how long running requests may go on when the server is asked to stop; `hang_s`: how long a step may run
    before the watchdog calls it hanging, both in seconds. `restart`: whether what dies is started again.
    """

    model_name: str
    strict_model_name: bool = False
    models: tuple[ServedModel, ...] = ()
    load_models: tuple[str, ...] | None = None
    tool_call_parser: str | None = None
    reasoning_parser: str | None = None
    chat_template: str | None = None
    template_variables: dict[str, Any] = Field(default_factory=dict)
    allowed_origins: tuple[str, ...] = ()
    host: str = "127.0.0.1"
    port: int = 9000
    http_port: int = 8000
    grpc_port: int = 8001
    metrics_port: int = 8002
    embedded: bool = False
    threads: int | None = None
    kv_cache_bytes: int | None = None
    kv_cache_tokens: int | None = None
    kv_cache_fraction: float = 0.9
    kv_offload_dir: str | None = None
    kv_offload_bytes: int | None = None
    policy: Policy = "guaranteed_no_evict"
    prefix_caching: bool = True
    max_queue_size: int = 0
    max_body_bytes: int = MAX_BODY_BYTES
    watermark: Watermark = Watermark()
    waiting: Waiting | None = None
    drain_s: float = 30.0
    hang_s: float = 10.0
    restart: Restart = "always"

    @property
    def budget(self) -> KvCacheBudget:
        return KvCacheBudget(self.kv_cache_bytes, self.kv_cache_tokens, self.kv_cache_fraction)

    @property
    def offload(self) -> KvOffload | None:
        return KvOffload.of(self.kv_offload_dir, self.kv_offload_bytes)

    def check_ports_differ(self) -> None:
        """Raises InflightError when two of the servers would listen on one port."""
        flags: dict[int, str] = {}
        for name in ("port", "http_port", "grpc_port", "metrics_port"):
            port, flag = getattr(self, name), "--" + name.replace("_", "-")
            if port in flags:
                raise InflightError(f"{flags[port]} and {flag} are both {port}.", "Give each a port of its own.")
            flags[port] = flag
