"""vLLM: the arguments of its engine, which `vllm serve` and the class LLM share, and those of `vllm serve` alone."""

from __future__ import annotations

from inflight.migration import reasons as why
from inflight.migration.overrides import score_tokens
from inflight.migration.row import MODEL, NOTED, Row, honoured, noted, refused, whole_number

DTYPES = {"half": "float16", "float": "float32", "fp16": "float16", "bf16": "bfloat16", "fp32": "float32"}
_NO_E5M2 = "!8-bit floats of the KV cache are E4M3: fp8."
CACHE_DTYPES = {
    "fp8_e4m3": "fp8",
    "fp8_e4m3fn": "fp8",
    "bf16": "bfloat16",
    "half": "float16",
    "fp16": "float16",
    "fp8_e5m2": _NO_E5M2,
    "fp8_inc": "fp8",
    "fp4_e2m1": "!there is no KV cache of 4-bit floats. int4 has as many bits.",
}
_PROCESSES = ("1", "mp", "uni", "auto", "external_launcher")
_DEFAULT_LENGTH = {"auto": NOTED + "it is the default: the model's maximum, at most 8192.", "-1": NOTED + "as auto."}

ENGINE: tuple[Row, ...] = (
    *honoured("model|model-tag=", MODEL),
    *honoured("dtype=", "--dtype", values=DTYPES),
    *honoured("quantization|-q=", "--quantize", "names of formats keep the numbers of a model that has them"),
    *honoured("max-model-len=", "--max-seq-len", values=_DEFAULT_LENGTH, read=whole_number),
    *honoured("max-num-seqs=", "--max-batch-size"),
    *honoured("max-num-batched-tokens=", "--max-num-tokens", read=whole_number),
    *honoured("block-size=", "--tokens-per-block"),
    *honoured("kv-cache-dtype=", "--kv-cache-dtype", "int8 and int4 as well", values=CACHE_DTYPES),
    *honoured("gpu-memory-utilization=", "--kv-cache-fraction", "of the memory that weights leave free"),
    *honoured("kv-cache-memory-bytes=", "--kv-cache-bytes", read=whole_number),
    *honoured("enable-prefix-caching", "--enable-prefix-caching", "on by default"),
    *honoured("kv-offloading-size=", "--kv-offloading-size", "of memory, or of files in --kv-offload-dir"),
    *honoured("revision=", "--revision"),
    *honoured("download-dir=", "HF_HUB_CACHE", "the environment variable of huggingface_hub"),
    *honoured("hf-token=?", "HF_TOKEN", "the environment variable of huggingface_hub"),
    *honoured("reasoning-parser=", "--reasoning-parser", "found from the chat template by default"),
    *refused(
        why.RANKS,
        "tensor-parallel-size|-tp= pipeline-parallel-size|-pp= data-parallel-size|-dp= data-parallel-size-local|-dpl= "
        "decode-context-parallel-size|-dcp= prefill-context-parallel-size|-pcp= nnodes|-n=",
        fine=("1",),
    ),
    *refused(
        why.RANKS,
        "node-rank|-r= data-parallel-rank|-dpn= data-parallel-start-rank|-dpr= data-parallel-address|-dpa= "
        "data-parallel-hybrid-lb|-dph data-parallel-external-lb|-dpe enable-expert-parallel|-ep enable-elastic-ep "
        "enable-eplb headless data-parallel-supervisor-port=",
    ),
    *refused(why.RANKS, "distributed-executor-backend=", fine=_PROCESSES),
    *refused(why.RANKS, "device=", fine=("auto", "cpu")),
    *noted(
        why.ADDRESSES,
        "master-addr= master-port= distributed-timeout-seconds= data-parallel-rpc-port|-dpp= "
        "data-parallel-backend|-dpb= dcp-comm-backend= dcp-kv-cache-interleave-size= cp-kv-cache-interleave-size= "
        "dp-supervisor-probe-interval-s= dp-supervisor-probe-timeout-s= dp-supervisor-probe-failure-threshold= "
        "disable-nccl-for-dp-synchronization all2all-backend= enable-ep-weight-filter eplb-config= "
        "expert-placement-strategy= enable-dbo ubatch-size= dbo-decode-token-threshold= "
        "dbo-prefill-token-threshold= ray-workers-use-nsight disable-custom-all-reduce",
    ),
    *noted(why.ONE_PROCESS, "numa-bind numa-bind-nodes=* numa-bind-cpus=* max-parallel-loading-workers="),
    *refused(why.PLUGINS, "worker-cls= worker-extension-cls= scheduler-cls= io-processor-plugin=", fine=("auto",)),
    *refused(why.PLUGINS, "logits-processors=* logits-processor-pattern= reasoning-parser-plugin="),
    *noted(
        why.AHEAD,
        "enforce-eager cuda-graph-sizes=* cudagraph-capture-sizes=* max-cudagraph-capture-size= "
        "max-seq-len-to-capture= compilation-config|-cc|-O= optimization-level= performance-mode= cudagraph-metrics "
        "enable-flashinfer-autotune fail-on-environ-validation",
    ),
    *noted(
        why.KERNELS,
        "attention-backend= attention-config|-ac= kernel-config= moe-backend= ir-op-priority= mamba-backend= "
        "mamba-config= gdn-prefill-backend= override-attention-dtype= disable-cascade-attn additional-config= "
        "enable-mamba-cache-stochastic-rounding mamba-cache-philox-rounds= use-v2-block-manager "
        "disable-async-output-proc",
    ),
    *noted(
        why.HOST_MEMORY,
        "cpu-offload-gb= cpu-offload-params=* offload-backend= offload-group-size= offload-num-in-group= "
        "offload-prefetch-step= offload-params=*",
    ),
    *noted(
        why.SCHEDULING,
        "enable-chunked-prefill max-num-partial-prefills= max-long-partial-prefills= long-prefill-token-threshold= "
        "scheduler-reserve-full-isl async-scheduling num-scheduler-steps= multi-step-stream-outputs preemption-mode= "
        "scheduler-delay-factor= num-lookahead-slots= kv-sharing-fast-prefill disable-chunked-mm-input",
    ),
    *noted("a priority counts whenever a request has one.", "scheduling-policy="),
    *noted(why.STEP_STREAM, "stream-interval="),
    *noted(
        why.HYBRID,
        "disable-hybrid-kv-cache-manager mamba-cache-dtype= mamba-ssm-cache-dtype= mamba-block-size= "
        "mamba-cache-mode= prefix-caching-hash-algo= kv-cache-dtype-skip-layers=* disable-sliding-window",
    ),
    *noted(why.CALIBRATED_CACHE, "calculate-kv-scales quantization-param-path="),
    *noted("blocks go to memory, or to the files of --kv-offload-dir.", "kv-offloading-backend="),
    *refused(
        "the KV cache is sized in bytes or tokens: --kv-cache-bytes, --kv-cache-tokens.", "num-gpu-blocks-override="
    ),
    *noted(why.NO_CODE, "trust-remote-code code-revision="),
    *noted(why.TEXT_LOADING, "safetensors-load-strategy= use-tqdm-on-load pt-load-map-location= ignore-patterns=*"),
    *refused(
        why.LOADERS,
        "load-format= model-loader-extra-config= model-weights=",
        fine=("auto", "safetensors", "gguf", "hf", "bitsandbytes", "mistral", "runai_streamer", "fastsafetensors"),
    ),
    *honoured(
        "hf-overrides=",
        "--score-tokens",
        "of what makes a scorer of a generator (classifier_from_token); others are refused: change config.json in a "
        "copy of the model, and build again",
        read=score_tokens,
    ),
    *refused(why.CONFIG_FILES, "hf-config-path=? rope-scaling= rope-theta="),
    *refused(why.CONFIG_FILES, "config-format=", fine=("auto", "hf")),
    *refused(why.OTHER_TOKENIZER, "tokenizer= tokenizer-revision="),
    *noted("tokenizers are those of the library tokenizers, as tokenizer.json has them.", "tokenizer-mode="),
    *noted(
        why.ONE_PROCESS, "tokenizer-pool-size= tokenizer-pool-type= tokenizer-pool-extra-config= renderer-num-workers="
    ),
    *refused("a server needs its tokenizer for text. An engine without one takes token ids.", "skip-tokenizer-init"),
    *refused(why.HIDDEN, "enable-prompt-embeds enable-return-routed-experts"),
    *noted(
        "log probabilities are reported for up to 64 tokens, from the model's own logits.",
        "max-logprobs= logprobs-mode=",
    ),
    *noted(why.OWN_FILES, "task= runner= convert= pooler-config= override-pooler-config= model-impl="),
    *refused(
        "defaults of sampling are those of generation_config.json. Send the parameters with the requests.",
        "generation-config= override-generation-config=",
        fine=("auto",),
    ),
    *noted(
        why.STRUCTURE,
        "structured-outputs-config= guided-decoding-backend= guided-decoding-disable-fallback "
        "guided-decoding-disable-any-whitespace reasoning-config=",
    ),
    *refused(
        why.SPECULATION,
        "speculative-config|-sc= speculative-model= num-speculative-tokens= speculative-max-model-len= "
        "speculative-model-quantization= speculative-draft-tensor-parallel-size= speculative-disable-mqa-scorer "
        "speculative-disable-by-batch-size= ngram-prompt-lookup-max= ngram-prompt-lookup-min= "
        "spec-decoding-acceptance-method= typical-acceptance-sampler-posterior-threshold= "
        "typical-acceptance-sampler-posterior-alpha= disable-logprobs-during-spec-decoding",
    ),
    *refused(
        why.LORA,
        "enable-lora enable-lora-bias lora-modules=* default-mm-loras= lora-extra-vocab-size= "
        "enable-tower-connector-lora fully-sharded-loras specialize-active-lora qlora-adapter-name-or-path= "
        "enable-prompt-adapter prompt-adapters=* max-prompt-adapters= max-prompt-adapter-token= "
        "long-lora-scaling-factors=",
    ),
    *noted(
        "it is about LoRA adapters, which are not applied.",
        "max-loras= max-lora-rank= max-cpu-loras= lora-dtype= lora-target-modules=*",
    ),
    *refused(why.IMAGES, "enable-mm-embeds mm-encoder-only allowed-local-media-path= allowed-media-domains=*"),
    *noted(
        "models here take text alone.",
        "language-model-only limit-mm-per-prompt= media-io-kwargs= mm-processor-kwargs= mm-processor-cache-gb= "
        "mm-processor-cache-type= mm-shm-cache-max-object-size-mb= mm-encoder-tp-mode= mm-encoder-attn-backend= "
        "mm-encoder-attn-dtype= mm-encoder-fp8-scale-path= mm-encoder-fp8-scale-save-path= "
        "mm-encoder-fp8-scale-save-margin= interleave-mm-strings skip-mm-profiling video-pruning-rate= mm-tensor-ipc= "
        "disable-mm-preprocessor-cache enable-mm-processor-stats",
    ),
    *refused(why.TRANSFER, "kv-transfer-config= kv-events-config= ec-transfer-config= weight-transfer-config="),
    *refused(why.SLEEPING, "enable-sleep-mode"),
    *refused("the format is not read as another one.", "quantization-config="),
    *noted("formats are read whether they are old or not.", "allow-deprecated-quantization"),
    *noted(why.LOGGING, "disable-log-stats aggregate-engine-logging enable-logging-iteration-details"),
    *noted(
        why.MEASURED,
        "show-hidden-metrics-for-version= otlp-traces-endpoint= collect-detailed-traces= kv-cache-metrics "
        "kv-cache-metrics-sample= enable-layerwise-nvtx-tracing enable-mfu-metrics profiler-config=",
    ),
    *noted(why.TPU, "override-neuron-config="),
)

SERVE: tuple[Row, ...] = (
    *honoured("swap-space=", "--kv-offloading-size", "of memory, or of files in --kv-offload-dir"),
    *noted("a request that has no seed draws one; send seed with it.", "seed="),
    *honoured("host=", "--host"),
    *honoured("port=", "--port"),
    *honoured("served-model-name=", "--served-model-name"),
    *honoured("allowed-origins=", "--cors-origin"),
    *honoured("tool-call-parser=", "--tool-call-parser", "found from the chat template by default"),
    *honoured("shutdown-timeout=", "--drain-seconds"),
    *honoured("config=", "--config"),
    *noted("a request with tools has its calls parsed.", "enable-auto-tool-choice"),
    *refused(why.AUTHENTICATION, "api-key=* ssl-keyfile= ssl-certfile= ssl-ca-certs= enable-ssl-refresh ssl-ciphers="),
    *noted("there is no TLS here, and so no certificates of clients.", "ssl-cert-reqs="),
    *refused(why.PATHS, "root-path= uds="),
    *honoured("chat-template=", "--chat-template"),
    *honoured("default-chat-template-kwargs=", "--default-chat-template-kwargs"),
    *refused(why.PLUGINS, "tool-parser-plugin= middleware=* tool-server="),
    *refused("requests bring no chat templates.", "trust-request-chat-template"),
    *refused("answers are those of the assistant.", "response-role=", fine=("assistant",)),
    *noted("content in parts is joined for templates that take strings.", "chat-template-content-format="),
    *noted("token ids are asked for with the request: return_token_ids.", "return-tokens-as-token-ids"),
    *noted("with tool_choice none the template is told of no tools.", "exclude-tools-when-tool-choice-none"),
    *noted(why.ALWAYS, "enable-prompt-tokens-details enable-tokenizer-info-endpoint enable-request-id-headers"),
    *refused("usage is asked for with the request: stream_options.", "enable-force-include-usage"),
    *refused("only token ids go through Triton's model tensorrt_llm.", "tokens-only"),
    *noted(
        why.LOGGING,
        "uvicorn-log-level= disable-uvicorn-access-log disable-access-log-for-endpoints= log-config-file= "
        "max-log-len= enable-log-requests disable-log-requests enable-log-outputs enable-log-deltas log-error-stack "
        "disable-frontend-multiprocessing",
    ),
    *noted(why.METRICS, "enable-server-load-tracking enable-per-request-metrics"),
    *noted("the browser's rules are those of --cors-origin.", "allow-credentials allowed-methods= allowed-headers="),
    *noted(why.ONE_PROCESS, "api-server-count|-asc="),
    *refused("Triton's gRPC API is at --grpc-port.", "grpc"),
    *noted("--max-body-bytes bounds what a request may send.", "h11-max-incomplete-event-size= h11-max-header-count="),
    *noted("the pages of the API are in docs/serving.md.", "disable-fastapi-docs enable-offline-docs"),
    *noted(why.KERNELS, "enable-flash-late-interaction"),
    *noted("Cohere's own API is not there.", "cohere-is-reasoning-model cohere-format="),
    *noted("answers have no system_fingerprint.", "fingerprint-mode= fingerprint-value="),
)
