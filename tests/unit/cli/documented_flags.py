"""The flags that other tools document, written down from their own pages and sources, not from the tables here.

SGLang's page of server arguments, TGI's reference of its launcher, vLLM's cli_args.py and the arguments of its engine
in arg_utils.py, of old and new versions, TensorRT-LLM's commands/build.py and the convert_checkpoint.py of Llama.
"""

from __future__ import annotations

from collections.abc import Mapping

_SGLANG = """
model-path model tokenizer-path tokenizer-mode tokenizer-worker-num skip-tokenizer-init load-format
model-loader-extra-config trust-remote-code context-length is-embedding enable-multimodal revision model-impl host port
fastapi-root-path grpc-mode skip-server-warmup warmups nccl-port checkpoint-engine-wait-weights-before-ready dtype
quantization quantization-param-path kv-cache-dtype enable-fp32-lm-head modelopt-quant modelopt-checkpoint-restore-path
modelopt-checkpoint-save-path modelopt-export-path quantize-and-serve rl-quant-profile enable-quant-communications
mem-fraction-static max-running-requests max-queued-requests max-total-tokens chunked-prefill-size prefill-max-requests
enable-dynamic-chunking max-prefill-tokens schedule-policy enable-priority-scheduling abort-on-priority-when-disabled
schedule-low-priority-values-first priority-scheduling-preemption-threshold schedule-conservativeness page-size
swa-full-tokens-ratio disable-hybrid-swa-memory radix-eviction-policy enable-prefill-delayer
prefill-delayer-max-delay-passes prefill-delayer-token-usage-low-watermark prefill-delayer-queue-min-ratio
prefill-delayer-max-delay-ms prefill-delayer-forward-passes-buckets prefill-delayer-wait-seconds-buckets device
tensor-parallel-size tp-size tp pipeline-parallel-size pp-size attention-context-parallel-size attn-cp-size
moe-data-parallel-size moe-dp-size pp-max-micro-batch-size pp-async-batch-depth stream-interval
incremental-streaming-output random-seed constrained-json-whitespace-pattern constrained-json-disable-any-whitespace
watchdog-timeout soft-watchdog-timeout dist-timeout download-dir model-checksum base-gpu-id gpu-id-step sleep-on-idle
custom-sigquit-handler log-level log-level-http log-requests log-requests-level log-requests-format log-requests-target
uvicorn-access-log-exclude-prefixes crash-dump-folder show-time-cost enable-metrics enable-mfu-metrics
enable-metrics-for-all-schedulers tokenizer-metrics-custom-labels-header tokenizer-metrics-allowed-custom-labels
bucket-time-to-first-token bucket-inter-token-latency bucket-e2e-request-latency collect-tokens-histogram
prompt-tokens-buckets generation-tokens-buckets gc-warning-threshold-secs decode-log-interval
enable-request-time-stats-logging kv-events-config enable-trace otlp-traces-endpoint export-metrics-to-file
export-metrics-to-file-dir api-key admin-api-key served-model-name weight-version chat-template hf-chat-template-name
completion-template file-storage-path enable-cache-report reasoning-parser tool-call-parser tool-server
sampling-defaults data-parallel-size dp-size dp load-balance-method dist-init-addr nccl-init-addr nnodes node-rank
json-model-override-args preferred-sampling-params enable-lora enable-lora-overlap-loading max-lora-rank
lora-target-modules lora-paths max-loras-per-batch max-loaded-loras lora-eviction-policy lora-backend
max-lora-chunk-size lora-drain-wait-threshold attention-backend prefill-attention-backend decode-attention-backend
sampling-backend grammar-backend mm-attention-backend dsa-prefill-backend dsa-decode-backend nsa-prefill-backend
nsa-decode-backend fp8-gemm-backend fp4-gemm-backend disable-flashinfer-autotune speculative-algorithm
speculative-draft-model-path speculative-draft-model speculative-draft-model-revision speculative-draft-load-format
speculative-num-steps speculative-eagle-topk speculative-num-draft-tokens speculative-accept-threshold-single
speculative-accept-threshold-acc speculative-token-map speculative-attention-mode speculative-draft-attention-backend
speculative-moe-runner-backend speculative-moe-a2a-backend speculative-draft-model-quantization
speculative-ngram-min-bfs-breadth speculative-ngram-max-bfs-breadth speculative-ngram-match-type
speculative-ngram-max-trie-depth speculative-ngram-capacity enable-multi-layer-eagle expert-parallel-size ep-size ep
moe-a2a-backend moe-runner-backend flashinfer-mxfp4-moe-precision enable-flashinfer-allreduce-fusion
enable-aiter-allreduce-fusion deepep-mode deepep-dispatcher-output-dtype enable-fused-grouped-gemm-combine
ep-num-redundant-experts ep-dispatch-algorithm init-expert-location enable-eplb eplb-algorithm
eplb-rebalance-num-iterations eplb-rebalance-layers-per-chunk eplb-min-rebalancing-utilization-threshold
expert-distribution-recorder-mode expert-distribution-recorder-buffer-size enable-expert-distribution-metrics
deepep-config moe-dense-tp-size elastic-ep-backend enable-elastic-expert-backup mooncake-ib-device
enable-deepep-waterfill elastic-ep-rejoin max-mamba-cache-size mamba-ssm-dtype mamba-full-memory-ratio
mamba-scheduler-strategy mamba-track-interval enable-hierarchical-cache hicache-ratio hicache-size hicache-write-policy
hicache-io-backend hicache-mem-layout hicache-storage-backend hicache-storage-prefetch-policy
hicache-storage-backend-extra-config hierarchical-sparse-attention-extra-config enable-lmcache kt-weight-path kt-method
kt-cpuinfer kt-threadpool-count kt-num-gpu-experts kt-max-deferred-experts-per-token dllm-algorithm
dllm-algorithm-config cpu-offload-gb offload-group-size offload-num-in-group offload-prefetch-step offload-mode
multi-item-scoring-delimiter disable-radix-cache cuda-graph-max-bs cuda-graph-bs disable-cuda-graph
disable-cuda-graph-padding enable-profile-cuda-graph enable-cudagraph-gc enable-layerwise-nvtx-marker enable-nccl-nvls
enable-symm-mem disable-flashinfer-cutlass-moe-fp4-allgather enable-tokenizer-batch-encode
disable-tokenizer-batch-decode
disable-outlines-disk-cache disable-custom-all-reduce enable-mscclpp enable-torch-symm-mem disable-overlap-schedule
enable-mixed-chunk enable-dp-attention enable-dp-lm-head enable-two-batch-overlap enable-single-batch-overlap
tbo-token-distribution-threshold enable-torch-compile enable-torch-compile-debug-mode disable-piecewise-cuda-graph
enforce-piecewise-cuda-graph piecewise-cuda-graph-tokens piecewise-cuda-graph-compiler torch-compile-max-bs
piecewise-cuda-graph-max-tokens torchao-config enable-nan-detection enable-p2p-check triton-attention-reduce-in-fp32
triton-attention-num-kv-splits triton-attention-split-tile-size num-continuous-decode-steps delete-ckpt-after-loading
enable-memory-saver enable-weights-cpu-backup enable-draft-weights-cpu-backup allow-auto-truncate
enable-custom-logit-processor flashinfer-mla-disable-ragged disable-shared-experts-fusion disable-chunked-prefix-cache
disable-fast-image-processor keep-mm-feature-on-device enable-return-hidden-states enable-return-routed-experts
scheduler-recv-interval numa-node enable-deterministic-inference rl-on-policy-target enable-attn-tp-input-scattered
enable-dsa-prefill-context-parallel enable-nsa-prefill-context-parallel dsa-prefill-cp-mode nsa-prefill-cp-mode
enable-fused-qk-norm-rope enable-precise-embedding-interpolation enable-dynamic-batch-tokenizer
dynamic-batch-tokenizer-batch-size dynamic-batch-tokenizer-batch-timeout debug-tensor-dump-output-folder
debug-tensor-dump-layers debug-tensor-dump-input-file debug-tensor-dump-inject disaggregation-mode
disaggregation-transfer-backend disaggregation-bootstrap-port disaggregation-ib-device
disaggregation-decode-enable-offload-kvcache num-reserved-decode-tokens disaggregation-decode-polling-interval
encoder-only language-only encoder-transfer-backend encoder-urls custom-weight-loader weight-loader-disable-mmap
weight-loader-prefetch-checkpoints weight-loader-prefetch-num-threads remote-instance-weight-loader-seed-instance-ip
remote-instance-weight-loader-seed-instance-service-port remote-instance-weight-loader-send-weights-group-ports
remote-instance-weight-loader-backend remote-instance-weight-loader-start-seed-via-transfer-engine enable-pdmux
pdmux-config-path sm-group-num config mm-max-concurrent-calls mm-per-request-timeout
enable-broadcast-mm-inputs-process mm-process-config mm-enable-dp-encoder limit-mm-data-per-request
enable-mm-global-cache decrypted-config-file decrypted-draft-config-file enable-prefix-mm-cache forward-hooks
msprobe-dump-config enable-ep-moe enable-deepep-moe prefill-round-robin-balance enable-flashinfer-cutlass-moe
enable-flashinfer-cutedsl-moe enable-flashinfer-trtllm-moe enable-triton-kernel-moe enable-flashinfer-mxfp4-moe
crash-on-nan hybrid-kvcache-ratio load-watch-interval nsa-prefill nsa-decode
"""

_TGI = """
model-id revision validation-workers sharded num-shard quantize speculate dtype kv-cache-dtype trust-remote-code
max-concurrent-requests max-best-of max-stop-sequences max-top-n-tokens max-input-tokens max-input-length
max-total-tokens waiting-served-ratio max-batch-prefill-tokens max-batch-total-tokens max-waiting-tokens max-batch-size
cuda-graphs hostname port prometheus-port shard-uds-path master-addr master-port huggingface-hub-cache
weights-cache-override disable-custom-kernels cuda-memory-fraction rope-scaling rope-factor json-output otlp-endpoint
otlp-service-name cors-allow-origin api-key watermark-gamma watermark-delta ngrok ngrok-authtoken ngrok-edge
tokenizer-config-path disable-grammar-support env max-client-batch-size lora-adapters usage-stats payload-limit
enable-prefill-logprobs graceful-termination-timeout
"""

_VLLM = """
lora-modules chat-template chat-template-content-format trust-request-chat-template default-chat-template-kwargs
response-role return-tokens-as-token-ids enable-auto-tool-choice exclude-tools-when-tool-choice-none tool-call-parser
tool-parser-plugin tool-server log-config-file max-log-len enable-prompt-tokens-details enable-per-request-metrics
enable-server-load-tracking enable-force-include-usage enable-tokenizer-info-endpoint enable-log-outputs
enable-log-deltas cohere-is-reasoning-model cohere-format log-error-stack tokens-only fingerprint-mode
fingerprint-value host port data-parallel-supervisor-port dp-supervisor-probe-interval-s dp-supervisor-probe-timeout-s
dp-supervisor-probe-failure-threshold uds uvicorn-log-level disable-uvicorn-access-log disable-access-log-for-endpoints
allow-credentials allowed-origins allowed-methods allowed-headers api-key ssl-keyfile ssl-certfile ssl-ca-certs
enable-ssl-refresh ssl-cert-reqs ssl-ciphers root-path middleware enable-request-id-headers disable-fastapi-docs
h11-max-incomplete-event-size h11-max-header-count enable-offline-docs enable-flash-late-interaction headless
api-server-count config grpc model task tokenizer skip-tokenizer-init revision code-revision tokenizer-revision
tokenizer-mode trust-remote-code allowed-local-media-path download-dir load-format config-format dtype kv-cache-dtype
max-model-len guided-decoding-backend logits-processor-pattern model-impl distributed-executor-backend
pipeline-parallel-size tensor-parallel-size max-parallel-loading-workers ray-workers-use-nsight block-size
enable-prefix-caching disable-sliding-window use-v2-block-manager num-lookahead-slots seed swap-space cpu-offload-gb
gpu-memory-utilization num-gpu-blocks-override max-num-batched-tokens max-num-seqs max-logprobs disable-log-stats
quantization rope-scaling rope-theta hf-overrides enforce-eager max-seq-len-to-capture disable-custom-all-reduce
tokenizer-pool-size tokenizer-pool-type tokenizer-pool-extra-config limit-mm-per-prompt mm-processor-kwargs
disable-mm-preprocessor-cache enable-lora enable-lora-bias max-loras max-lora-rank lora-extra-vocab-size lora-dtype
long-lora-scaling-factors max-cpu-loras fully-sharded-loras enable-prompt-adapter max-prompt-adapters
max-prompt-adapter-token device num-scheduler-steps multi-step-stream-outputs scheduler-delay-factor
enable-chunked-prefill speculative-model speculative-model-quantization num-speculative-tokens
speculative-disable-mqa-scorer speculative-draft-tensor-parallel-size speculative-max-model-len
speculative-disable-by-batch-size ngram-prompt-lookup-max ngram-prompt-lookup-min spec-decoding-acceptance-method
typical-acceptance-sampler-posterior-threshold typical-acceptance-sampler-posterior-alpha
disable-logprobs-during-spec-decoding model-loader-extra-config ignore-patterns preemption-mode served-model-name
qlora-adapter-name-or-path otlp-traces-endpoint collect-detailed-traces disable-async-output-proc scheduling-policy
override-neuron-config override-pooler-config compilation-config kv-transfer-config worker-cls generation-config
override-generation-config enable-sleep-mode calculate-kv-scales disable-log-requests
"""

_BUILD = """
checkpoint_dir model_config build_config model_cls_file model_cls_name output_dir max_batch_size max_input_len
max_seq_len max_decoder_seq_len max_beam_width max_num_tokens opt_num_tokens max_encoder_input_len
max_prompt_embedding_table_size max_multimodal_len kv_cache_type paged_kv_cache input_timing_cache output_timing_cache
profiling_verbosity strip_plan weight_sparsity weight_streaming fast_build workers log_level enable_debug_output
visualize_network dry_run monitor_memory logits_dtype gather_context_logits gather_generation_logits
gather_all_token_logits lora_dir lora_ckpt_source lora_target_modules max_lora_rank speculative_decoding_mode
max_draft_len auto_parallel gpus_per_node cluster_key gemm_plugin gpt_attention_plugin remove_input_padding
use_paged_context_fmha context_fmha multiple_profiles reduce_fusion user_buffer
"""

_CONVERT = """
model_dir meta_ckpt_dir tp_size pp_size moe_tp_size moe_ep_size dtype vocab_size n_positions n_layer n_head n_kv_head
n_embd inter_size multiple_of ffn_dim_multiplier rms_norm_eps use_weight_only disable_weight_only_quant_plugin
weight_only_precision calib_dataset calib_size calib_max_seq_length smoothquant per_channel per_token int8_kv_cache
fp8_kv_cache quant_ckpt_path use_fp8 use_fp8_rowwise use_meta_fp8_rowwise_recipe per_group load_by_shard hidden_act
rotary_base group_size load_model_on_cpu use_parallel_embedding embedding_sharding_dim use_embedding_sharing output_dir
workers moe_num_experts moe_top_k moe_renorm_mode save_config_only remove_duplicated_kv_heads log_level
"""

DOCUMENTED: Mapping[str, tuple[str, ...]] = {
    "sglang.launch_server": tuple(_SGLANG.split()),
    "text-generation-launcher": tuple(_TGI.split()),
    "vllm serve": tuple(_VLLM.split()),
    "trtllm-build": tuple(_BUILD.split()),
    "convert_checkpoint.py": tuple(_CONVERT.split()),
}
