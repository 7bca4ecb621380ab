"""python -m sglang.launch_server."""

from __future__ import annotations

from inflight.migration import reasons as why
from inflight.migration.row import MODEL, Row, honoured, noted, of_gb, refused
from inflight.migration.vllm import CACHE_DTYPES, DTYPES

_CHUNKS = {"-1": "!prefills are always chunked: a long prompt must not hold up the others."}

LAUNCH_SERVER: tuple[Row, ...] = (
    *honoured("model-path|model=", MODEL),
    *honoured("revision=", "--revision"),
    *honoured("dtype=", "--dtype", values=DTYPES),
    *honoured("quantization=", "--quantize", "names of formats keep the numbers of a model that has them"),
    *honoured("modelopt-quant= torchao-config=", "--quantize"),
    *honoured("kv-cache-dtype=", "--kv-cache-dtype", values=CACHE_DTYPES),
    *honoured("context-length=", "--max-seq-len"),
    *honoured("max-running-requests=", "--max-batch-size"),
    *honoured("max-queued-requests=", "--max-queue-size"),
    *honoured("chunked-prefill-size=", "--max-num-tokens", values=_CHUNKS),
    *honoured(
        "max-total-tokens=",
        "--kv-cache-tokens",
        rival="text-generation-launcher's --max-total-tokens bounds a sequence: --max-seq-len here",
    ),
    *honoured("page-size=", "--tokens-per-block", values={"1": "!a block has at least 16 tokens, 32 by default."}),
    *honoured("mem-fraction-static=", "--kv-cache-fraction", "of the memory that weights leave free"),
    *honoured("disable-radix-cache", "--no-enable-prefix-caching"),
    *honoured("hicache-size=", "--kv-offload-bytes", "in GB, of memory, or of files in --kv-offload-dir", read=of_gb),
    *honoured("file-storage-path=", "--kv-offload-dir"),
    *honoured("host=", "--host"),
    *honoured("port=", "--port"),
    *honoured("served-model-name=", "--served-model-name"),
    *honoured("reasoning-parser=", "--reasoning-parser", "found from the chat template by default"),
    *honoured("tool-call-parser=", "--tool-call-parser", "found from the chat template by default"),
    *honoured("soft-watchdog-timeout=", "--hang-seconds", "it says so in the log and in /health, and goes on"),
    *honoured("download-dir=", "HF_HUB_CACHE", "the environment variable of huggingface_hub"),
    *honoured("config=", "--config"),
    *refused(
        why.RANKS,
        "tensor-parallel-size|tp-size|tp= pipeline-parallel-size|pp-size= data-parallel-size|dp-size|dp= "
        "expert-parallel-size|ep-size|ep= attention-context-parallel-size|attn-cp-size= "
        "moe-data-parallel-size|moe-dp-size= moe-dense-tp-size= nnodes=",
        fine=("1",),
    ),
    *refused(
        why.RANKS,
        "node-rank= dist-init-addr|nccl-init-addr= enable-dp-attention enable-dp-lm-head enable-eplb "
        "enable-elastic-expert-backup elastic-ep-backend= elastic-ep-rejoin enable-ep-moe enable-deepep-moe "
        "enable-dsa-prefill-context-parallel|enable-nsa-prefill-context-parallel ep-num-redundant-experts=",
    ),
    *refused(why.RANKS, "device=", fine=("auto", "cpu")),
    *refused(
        why.SPECULATION,
        "speculative-algorithm= speculative-draft-model-path|speculative-draft-model= "
        "speculative-draft-model-revision= speculative-draft-load-format= speculative-num-steps= "
        "speculative-eagle-topk= speculative-num-draft-tokens= speculative-accept-threshold-single= "
        "speculative-accept-threshold-acc= speculative-token-map= speculative-attention-mode= "
        "speculative-draft-attention-backend= speculative-moe-runner-backend= speculative-moe-a2a-backend= "
        "speculative-draft-model-quantization= speculative-ngram-min-bfs-breadth= speculative-ngram-max-bfs-breadth= "
        "speculative-ngram-match-type= speculative-ngram-max-trie-depth= speculative-ngram-capacity= "
        "enable-multi-layer-eagle",
    ),
    *refused(why.LORA, "enable-lora lora-paths=* enable-lora-overlap-loading"),
    *noted(
        "it is about LoRA adapters, which are not applied.",
        "max-lora-rank= lora-target-modules=* max-loras-per-batch= max-loaded-loras= lora-eviction-policy= "
        "lora-backend= max-lora-chunk-size= lora-drain-wait-threshold=",
    ),
    *refused(why.AUTHENTICATION, "api-key= admin-api-key="),
    *honoured("chat-template=", "--chat-template", "a file or the template; names of SGLang's own are not known"),
    *refused(why.TEMPLATE, "hf-chat-template-name= completion-template="),
    *refused(why.PATHS, "fastapi-root-path="),
    *refused("Triton's gRPC API is at --grpc-port.", "grpc-mode"),
    *refused(
        why.PLUGINS,
        "enable-custom-logit-processor custom-sigquit-handler= custom-weight-loader=* forward-hooks= tool-server= "
        "warmups=",
    ),
    *refused(
        why.LOADERS,
        "load-format= model-loader-extra-config= modelopt-checkpoint-restore-path= decrypted-config-file= "
        "decrypted-draft-config-file= rl-quant-profile= kt-weight-path=",
        fine=("auto", "safetensors", "gguf", "bitsandbytes", "layered", "fastsafetensors", "runai_streamer"),
    ),
    *refused(
        "a checkpoint of its own is written by inflight convert --output-dir.",
        "modelopt-checkpoint-save-path= modelopt-export-path=",
    ),
    *refused(why.OTHER_TOKENIZER, "tokenizer-path="),
    *refused("a server needs its tokenizer for text. An engine without one takes token ids.", "skip-tokenizer-init"),
    *refused(why.CONFIG_FILES, "json-model-override-args="),
    *refused(
        "defaults of sampling are those of generation_config.json. Send the parameters with the requests.",
        "sampling-defaults= preferred-sampling-params=",
        fine=("model",),
    ),
    *refused(why.TRUNCATION, "allow-auto-truncate"),
    *refused(why.HIDDEN, "enable-return-hidden-states enable-return-routed-experts multi-item-scoring-delimiter="),
    *refused(why.SLEEPING, "enable-memory-saver"),
    *refused("files of the user are left alone.", "delete-ckpt-after-loading"),
    *refused(
        why.TRANSFER,
        "disaggregation-mode= kv-events-config= encoder-only encoder-urls=* enable-lmcache enable-pdmux "
        "remote-instance-weight-loader-seed-instance-ip= remote-instance-weight-loader-seed-instance-service-port= "
        "remote-instance-weight-loader-send-weights-group-ports= remote-instance-weight-loader-backend= "
        "remote-instance-weight-loader-start-seed-via-transfer-engine checkpoint-engine-wait-weights-before-ready",
    ),
    *refused("a model that generates by diffusion is not read.", "dllm-algorithm= dllm-algorithm-config="),
    *refused("digests of the hub are checked by huggingface_hub; an engine's are in its manifest.", "model-checksum=?"),
    *refused(
        "structured output is by llguidance; it cannot be turned off.",
        "grammar-backend=",
        fine=("llguidance", "xgrammar", "outlines"),
    ),
    *refused("lower values come first.", "priority-scheduling-preemption-threshold= abort-on-priority-when-disabled"),
    *noted(
        "a priority counts whenever a request has one, and lower values come first.",
        "enable-priority-scheduling schedule-low-priority-values-first",
    ),
    *noted("a request that has no seed draws one; send seed with it.", "random-seed="),
    *noted(why.OWN_FILES, "is-embedding model-impl= enable-fp32-lm-head"),
    *noted("with --quantize a model is quantized when it is first served.", "quantize-and-serve"),
    *noted(
        why.SCHEDULING,
        "prefill-max-requests= enable-dynamic-chunking max-prefill-tokens= schedule-policy= "
        "schedule-conservativeness= enable-prefill-delayer prefill-delayer-max-delay-passes= "
        "prefill-delayer-token-usage-low-watermark= prefill-delayer-queue-min-ratio= prefill-delayer-max-delay-ms= "
        "prefill-delayer-forward-passes-buckets=* prefill-delayer-wait-seconds-buckets=* disable-overlap-schedule "
        "enable-mixed-chunk num-continuous-decode-steps= scheduler-recv-interval= disable-chunked-prefix-cache "
        "num-reserved-decode-tokens= pp-max-micro-batch-size= pp-async-batch-depth= enable-two-batch-overlap "
        "enable-single-batch-overlap tbo-token-distribution-threshold= enable-dynamic-batch-tokenizer "
        "dynamic-batch-tokenizer-batch-size= dynamic-batch-tokenizer-batch-timeout= load-watch-interval=",
    ),
    *noted(
        why.HYBRID,
        "swa-full-tokens-ratio= disable-hybrid-swa-memory radix-eviction-policy= max-mamba-cache-size= "
        "mamba-ssm-dtype= mamba-full-memory-ratio= mamba-scheduler-strategy= mamba-track-interval= "
        "hybrid-kvcache-ratio=?",
    ),
    *noted(
        "--kv-offload-dir keeps blocks in files.",
        "enable-hierarchical-cache hicache-ratio= hicache-write-policy= hicache-io-backend= hicache-mem-layout= "
        "hicache-storage-backend= hicache-storage-prefetch-policy= hicache-storage-backend-extra-config= "
        "disaggregation-decode-enable-offload-kvcache hierarchical-sparse-attention-extra-config=",
    ),
    *noted(why.STEP_STREAM, "stream-interval= incremental-streaming-output"),
    *noted(why.CALIBRATED_CACHE, "quantization-param-path="),
    *noted(
        why.KERNELS,
        "attention-backend= prefill-attention-backend= decode-attention-backend= sampling-backend= "
        "mm-attention-backend= dsa-prefill-backend|nsa-prefill-backend|nsa-prefill= "
        "dsa-decode-backend|nsa-decode-backend|nsa-decode= fp8-gemm-backend= fp4-gemm-backend= "
        "flashinfer-mxfp4-moe-precision= moe-runner-backend= triton-attention-reduce-in-fp32 "
        "triton-attention-num-kv-splits= triton-attention-split-tile-size= flashinfer-mla-disable-ragged "
        "disable-shared-experts-fusion enable-fused-qk-norm-rope enable-fused-grouped-gemm-combine "
        "enable-flashinfer-allreduce-fusion enable-aiter-allreduce-fusion enable-flashinfer-cutlass-moe "
        "enable-flashinfer-cutedsl-moe enable-flashinfer-trtllm-moe enable-triton-kernel-moe "
        "enable-flashinfer-mxfp4-moe kt-method= kt-cpuinfer= kt-threadpool-count= kt-num-gpu-experts= "
        "kt-max-deferred-experts-per-token= enable-attn-tp-input-scattered dsa-prefill-cp-mode|nsa-prefill-cp-mode=",
    ),
    *noted(
        why.AHEAD,
        "cuda-graph-max-bs= cuda-graph-bs=* disable-cuda-graph disable-cuda-graph-padding enable-profile-cuda-graph "
        "enable-cudagraph-gc enable-torch-compile enable-torch-compile-debug-mode disable-piecewise-cuda-graph "
        "enforce-piecewise-cuda-graph piecewise-cuda-graph-tokens=* piecewise-cuda-graph-compiler= "
        "piecewise-cuda-graph-max-tokens= torch-compile-max-bs= disable-flashinfer-autotune skip-server-warmup",
    ),
    *noted(
        why.ADDRESSES,
        "nccl-port= dist-timeout= enable-quant-communications load-balance-method= moe-a2a-backend= deepep-mode= "
        "deepep-dispatcher-output-dtype= deepep-config= enable-deepep-waterfill mooncake-ib-device= "
        "ep-dispatch-algorithm= init-expert-location= eplb-algorithm= eplb-rebalance-num-iterations= "
        "eplb-rebalance-layers-per-chunk= eplb-min-rebalancing-utilization-threshold= enable-nccl-nvls "
        "enable-symm-mem enable-mscclpp enable-torch-symm-mem disable-custom-all-reduce enable-p2p-check "
        "disable-flashinfer-cutlass-moe-fp4-allgather prefill-round-robin-balance disaggregation-transfer-backend= "
        "disaggregation-bootstrap-port= disaggregation-ib-device= disaggregation-decode-polling-interval= "
        "encoder-transfer-backend= pdmux-config-path= sm-group-num=",
    ),
    *noted(
        why.HOST_MEMORY,
        "cpu-offload-gb= offload-group-size= offload-num-in-group= offload-prefetch-step= offload-mode= "
        "enable-weights-cpu-backup enable-draft-weights-cpu-backup",
    ),
    *noted(
        why.TEXT_LOADING,
        "weight-loader-disable-mmap weight-loader-prefetch-checkpoints weight-loader-prefetch-num-threads=",
    ),
    *noted(
        why.ONE_PROCESS,
        "tokenizer-worker-num= base-gpu-id= gpu-id-step= numa-node=* enable-tokenizer-batch-encode "
        "disable-tokenizer-batch-decode",
    ),
    *noted("threads sleep while no request runs.", "sleep-on-idle"),
    *noted("tokenizers are those of the library tokenizers, as tokenizer.json has them.", "tokenizer-mode="),
    *noted(why.NO_CODE, "trust-remote-code"),
    *noted("--hang-seconds says when a step is called hanging; the server is not killed.", "watchdog-timeout="),
    *noted(
        why.STRUCTURE,
        "constrained-json-whitespace-pattern= constrained-json-disable-any-whitespace disable-outlines-disk-cache",
    ),
    *noted(
        "the same tokens come whatever runs beside: it is always so.",
        "enable-deterministic-inference rl-on-policy-target=",
    ),
    *noted("usage has cached tokens always.", "enable-cache-report"),
    *noted("the engine's digests are in its manifest.", "weight-version="),
    *noted("NaN weights are refused when a model is converted.", "enable-nan-detection crash-on-nan="),
    *noted(
        "models here take text alone.",
        "enable-multimodal language-only mm-max-concurrent-calls= mm-per-request-timeout= "
        "enable-broadcast-mm-inputs-process mm-process-config= mm-enable-dp-encoder limit-mm-data-per-request= "
        "enable-mm-global-cache enable-prefix-mm-cache disable-fast-image-processor keep-mm-feature-on-device "
        "enable-precise-embedding-interpolation",
    ),
    *noted(
        why.LOGGING,
        "log-level= log-level-http= log-requests log-requests-level= log-requests-format= log-requests-target=* "
        "uvicorn-access-log-exclude-prefixes=* crash-dump-folder= show-time-cost gc-warning-threshold-secs= "
        "decode-log-interval= enable-request-time-stats-logging",
    ),
    *noted(
        why.METRICS,
        "enable-metrics enable-mfu-metrics enable-metrics-for-all-schedulers tokenizer-metrics-custom-labels-header= "
        "tokenizer-metrics-allowed-custom-labels=* bucket-time-to-first-token=* bucket-inter-token-latency=* "
        "bucket-e2e-request-latency=* collect-tokens-histogram prompt-tokens-buckets=* generation-tokens-buckets=* "
        "export-metrics-to-file export-metrics-to-file-dir= enable-expert-distribution-metrics",
    ),
    *noted(
        why.MEASURED,
        "enable-trace otlp-traces-endpoint= enable-layerwise-nvtx-marker expert-distribution-recorder-mode= "
        "expert-distribution-recorder-buffer-size= msprobe-dump-config= debug-tensor-dump-output-folder= "
        "debug-tensor-dump-layers=* debug-tensor-dump-input-file= debug-tensor-dump-inject=",
    ),
)
