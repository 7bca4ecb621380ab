"""text-generation-launcher, whose settings are environment variables as well: the same names in capitals."""

from __future__ import annotations

from inflight.migration import reasons as why
from inflight.migration.row import MODEL, Row, honoured, noted, refused
from inflight.migration.vllm import CACHE_DTYPES

_OFF = "off unless one of the two is given; the other then has TGI's default, 0.3 or 20"

LAUNCHER: tuple[Row, ...] = (
    *honoured("model-id=", MODEL),
    *honoured("revision=", "--revision"),
    *honoured(
        "quantize=",
        "--quantize",
        "eetq and bitsandbytes are int8_wo, bitsandbytes-nf4 is nf4; names of "
        "formats keep the numbers of a model that has them",
    ),
    *honoured("dtype=", "--dtype"),
    *honoured("kv-cache-dtype=", "--kv-cache-dtype", values=CACHE_DTYPES),
    *honoured(
        "max-total-tokens=",
        "--max-seq-len",
        "prompt and output together",
        rival="SGLang's --max-total-tokens bounds the whole KV cache: --kv-cache-tokens here",
    ),
    *honoured("max-batch-prefill-tokens=", "--max-num-tokens"),
    *honoured("max-batch-total-tokens=", "--kv-cache-tokens"),
    *honoured("max-batch-size=", "--max-batch-size"),
    *honoured("max-concurrent-requests=", "--max-queue-size", "of those that wait; more are answered 429"),
    *honoured("waiting-served-ratio=", "--waiting-served-ratio", _OFF),
    *honoured("max-waiting-tokens=", "--max-waiting-tokens", _OFF),
    *honoured("hostname=", "--host"),
    *honoured("port|-p=", "--port"),
    *honoured("prometheus-port=", "--metrics-port", "of Triton's metrics; those of the API are at its /metrics"),
    *honoured("cors-allow-origin=", "--cors-origin"),
    *honoured("cuda-memory-fraction=", "--kv-cache-fraction", "of the memory that weights leave free"),
    *honoured("payload-limit=", "--max-body-bytes"),
    *honoured("graceful-termination-timeout|-g=", "--drain-seconds"),
    *honoured("huggingface-hub-cache=", "HF_HUB_CACHE", "the environment variable of huggingface_hub"),
    *refused("inflight doctor prints the environment.", "env|-e"),
    *refused(why.RANKS, "num-shard=", fine=("1",)),
    *refused(why.RANKS, "sharded="),
    *refused(why.SPECULATION, "speculate="),
    *refused(why.LORA, "lora-adapters="),
    *refused(why.AUTHENTICATION, "api-key="),
    *refused(
        "the server is not reachable from outside by itself. Run ngrok beside it.", "ngrok ngrok-authtoken= ngrok-edge="
    ),
    *refused(why.CONTEXT, "rope-scaling= rope-factor="),
    *refused(why.OTHER_TOKENIZER, "tokenizer-config-path="),
    *honoured("watermark-gamma=", "--watermark-gamma"),
    *honoured(
        "watermark-delta=",
        "--watermark-delta",
        "which tokens are favoured is another list than TGI's: inflight detect-watermark finds it",
    ),
    *refused(
        "structured output cannot be turned off. Requests that ask for none have none.", "disable-grammar-support"
    ),
    *noted("a prompt may be as long as --max-seq-len allows.", "max-input-tokens= max-input-length="),
    *noted(
        "limits of a request are fixed (docs/serving.md).",
        "max-best-of= max-stop-sequences= max-top-n-tokens= max-client-batch-size=",
    ),
    *noted("log probabilities of prompts are computed where a request asks for them.", "enable-prefill-logprobs"),
    *noted(why.ONE_PROCESS, "validation-workers= shard-uds-path= master-addr= master-port="),
    *noted(why.AHEAD, "cuda-graphs= disable-custom-kernels"),
    *noted("hub models are cached by huggingface_hub (HF_HOME), engines in INFLIGHT_CACHE.", "weights-cache-override="),
    *noted(why.NO_CODE, "trust-remote-code"),
    *noted(why.LOGGING, "json-output"),
    *noted(why.MEASURED, "otlp-endpoint= otlp-service-name="),
    *noted("nothing is sent to anybody.", "usage-stats="),
)
