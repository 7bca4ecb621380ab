"""TensorRT-LLM: trtllm-build, convert_checkpoint.py (of every model) and quantize.py."""

from __future__ import annotations

from inflight.migration import reasons as why
from inflight.migration.row import MODEL, Row, honoured, noted, refused

_PLUGINS = "the passes fuse what they find (docs/formats/operators.md); there are no plugins to choose."
_PAGED = "prefill and decode read the paged KV cache without padding, always."
_GPU_BUILD = "it is about building with TensorRT for GPUs; --target tensorrt has flags of its own."
_LOGITS = "logits are computed for sampled rows in float32; log probabilities are asked for with the request."

BUILD: tuple[Row, ...] = (
    *honoured("checkpoint_dir=", "--checkpoint-dir"),
    *honoured("output_dir=", "--output-dir"),
    *honoured("max_batch_size=", "--max-batch-size"),
    *honoured("max_seq_len|max_decoder_seq_len=", "--max-seq-len"),
    *honoured("max_num_tokens=", "--max-num-tokens"),
    *honoured("tokens_per_block=", "--tokens-per-block"),
    *honoured(
        "kv_cache_type=",
        "--kv-cache-type",
        values={
            "disabled": "!an engine without a KV cache is one of an embedding model: the model says so.",
            "PAGED": "paged",
            "CONTINUOUS": "continuous",
        },
    ),
    *honoured(
        "paged_kv_cache=",
        "--kv-cache-type",
        values={"enable": "paged", "disable": "continuous", "true": "paged", "false": "continuous"},
    ),
    *honoured("dry_run", "--dry-run"),
    *noted("prompt and output together have --max-seq-len.", "max_input_len= max_output_len= opt_num_tokens="),
    *noted("an engine needs no width for it: " + why.BEAMS, "max_beam_width="),
    *refused("encoders with decoders are not built.", "max_encoder_input_len="),
    *refused("prompt tuning and images are not there.", "max_prompt_embedding_table_size|max_multimodal_len="),
    *refused(why.BY_HAND, "model_config= build_config= model_cls_file= model_cls_name="),
    *noted(
        "builds take seconds and are reproducible; nothing is timed.",
        "input_timing_cache= output_timing_cache= workers= fast_build monitor_memory profiling_verbosity=",
    ),
    *noted(why.LOGGING, "log_level= enable_debug_output"),
    *refused("the network is written by inflight export CKPT --onnx OUT.", "visualize_network="),
    *refused(
        "weights cannot be left out of an engine. --target tensorrt --weights inputs keeps them apart from the plan.",
        "strip_plan refit",
    ),
    *refused("sparse weights are multiplied as dense ones. Leave it out.", "weight_sparsity"),
    *noted(why.HOST_MEMORY, "weight_streaming"),
    *noted(_LOGITS, "logits_dtype="),
    *refused(_LOGITS, "gather_context_logits gather_generation_logits gather_all_token_logits"),
    *refused(why.LORA, "lora_dir=* lora_plugin= lora_target_modules=*"),
    *noted("it is about LoRA adapters, which are not applied.", "lora_ckpt_source= max_lora_rank="),
    *refused(why.SPECULATION, "speculative_decoding_mode= max_draft_len="),
    *refused(why.RANKS, "auto_parallel=", fine=("1",)),
    *noted(
        why.ADDRESSES,
        "gpus_per_node= cluster_key= nccl_plugin= use_custom_all_reduce= gemm_allreduce_plugin= "
        "reduce_fusion= user_buffer= pp_reduce_scatter=",
    ),
    *noted(
        _PLUGINS,
        "gemm_plugin= gpt_attention_plugin= bert_attention_plugin= lookup_plugin= moe_plugin= "
        "mamba_conv1d_plugin= low_latency_gemm_plugin= low_latency_gemm_swiglu_plugin= gemm_swiglu_plugin= "
        "fp8_rowwise_gemm_plugin= qserve_gemm_plugin= smooth_quant_gemm_plugin= identity_plugin= "
        "layernorm_quantization_plugin= rmsnorm_quantization_plugin= quantize_per_token_plugin= "
        "quantize_tensor_plugin= weight_only_groupwise_quant_matmul_plugin= weight_only_quant_matmul_plugin= "
        "norm_quant_fusion= use_fused_mlp= dora_plugin= smooth_quant_plugins= fuse_fp4_quant=",
    ),
    *noted(
        _PAGED,
        "remove_input_padding= use_paged_context_fmha= context_fmha= context_fmha_fp32_acc= "
        "use_fp8_context_fmha= use_context_fmha_for_generation= enable_xqa= multi_block_mode= "
        "attention_qk_half_accumulation= paged_state= bert_context_fmha_fp32_acc= use_fp4_context_fmha=",
    ),
    *noted(_GPU_BUILD, "multiple_profiles= manage_weights="),
    *refused(
        "the window of StreamingLLM is not there. Leave it out; --max-seq-len bounds a sequence.", "streamingllm="
    ),
)

_SHAPE = (
    "vocab_size= n_positions= n_layer= n_head= n_kv_head= n_embd= inter_size= multiple_of= ffn_dim_multiplier= "
    "rms_norm_eps= hidden_act= rotary_base= rotary_scaling=* moe_num_experts= moe_top_k= moe_renorm_mode= "
    "hidden_size= layer_norm_eps= rotary_dim= max_position_embeddings="
)

CONVERT: tuple[Row, ...] = (
    *honoured("model_dir=", MODEL),
    *honoured("output_dir=", "--output-dir"),
    *honoured("dtype=", "--dtype", "auto keeps float32 where convert_checkpoint.py made float16 of it"),
    *honoured("tp_size=", "--tp-size"),
    *honoured("pp_size=", "--pp-size"),
    *honoured("use_parallel_embedding", "--use-parallel-embedding"),
    *honoured("embedding_sharding_dim=", "--embedding-sharding-dim"),
    *honoured("use_weight_only", "--use-weight-only"),
    *honoured(
        "weight_only_precision=",
        "--weight-only-precision",
        values={"int8_gptq": "!GPTQ makes int4 here. int8 by rounding loses next to nothing: int8."},
    ),
    *honoured("smoothquant|-sq=", "--smoothquant", "int8_sq, always per channel and per token"),
    *honoured("use_fp8", "--use-fp8"),
    *honoured("use_fp8_rowwise", "--use-fp8-rowwise"),
    *honoured("int8_kv_cache", "--int8-kv-cache"),
    *honoured("fp8_kv_cache", "--fp8-kv-cache"),
    *honoured("group_size=", "--group-size"),
    *honoured("calib_dataset=", "--calib-dataset", "a text file, or .jsonl"),
    *honoured("calib_size=", "--calib-size"),
    *honoured("calib_max_seq_length=", "--calib-max-seq-length"),
    *honoured("random_seed=", "--random-seed"),
    *noted(
        "weights stream through, one tensor at a time.",
        "load_model_on_cpu load_by_shard workers= disable_weight_only_quant_plugin",
    ),
    *noted("int8_sq has a scale for each channel and each token, always.", "per_channel per_token"),
    *noted("int4 has a scale for each group, always.", "per_group"),
    *noted(why.LOGGING, "log_level="),
    *noted("a tied table is stored once, unless its projection is quantized.", "use_embedding_sharing"),
    *noted("keys and values are stored once for each head that the model has.", "remove_duplicated_kv_heads"),
    *noted(why.NO_CODE, "trust_remote_code"),
    *refused(why.RANKS, "cp_size= moe_tp_size= moe_ep_size= moe_tp_mode=", fine=("1", "-1")),
    *refused(why.BY_HAND, _SHAPE),
    *refused(
        why.OTHER_FORMAT, "meta_ckpt_dir= quant_ckpt_path= nemo_ckpt_path= bin_model_dir= ckpt_type=", fine=("hf",)
    ),
    *refused("QServe's scheme is not there. --quantize w4a8_gptq has the same bits.", "use_qserve"),
    *refused(
        "NVFP4 cannot be made here. Models that have it already keep their numbers; int4 has as many bits.", "use_nvfp4"
    ),
    *refused("which layers are quantized is said by --exclude-modules.", "use_meta_fp8_rowwise_recipe"),
    *refused("inflight build-engine --dry-run says what would be built.", "save_config_only"),
    *refused("prompt tuning is not there.", "use_prompt_tuning max_prompt_embedding_table_size="),
)

QUANTIZE: tuple[Row, ...] = (
    *honoured("model_dir=", MODEL),
    *honoured("output_dir=", "--output-dir"),
    *honoured("dtype=", "--dtype"),
    *honoured(
        "qformat=",
        "--quantize",
        "fp8 is fp8_rowwise here; quantize.py's own form is fp8_tensorwise",
        values={"full_prec": "~it is the default: plain weights."},
    ),
    *honoured("awq_block_size=", "--group-size"),
    *honoured("kv_cache_dtype=", "--kv-cache-dtype"),
    *honoured("calib_dataset=", "--calib-dataset", "a text file, or .jsonl"),
    *honoured("calib_size=", "--calib-size"),
    *honoured("calib_max_seq_length=", "--calib-max-seq-length"),
    *honoured("seed=", "--random-seed"),
    *honoured("tp_size=", "--tp-size"),
    *honoured("pp_size=", "--pp-size"),
    *refused(why.RANKS, "cp_size= calib_tp_size= calib_pp_size=", fine=("1",)),
    *refused(why.OTHER_FORMAT, "nemo_ckpt_path="),
    *refused("calibration runs on the processor.", "device= device_map=", fine=("cpu", "auto")),
    *noted(
        "sequences are calibrated one layer at a time; their number is --calib-size.",
        "batch_size= tokenizer_max_seq_length= decoder_type=",
    ),
    *refused(
        'lm_head is quantized by --quantize-module "lm_head=SCHEME"; the int4 schemes give it int8 by themselves.',
        "quantize_lm_head",
    ),
    *refused(
        why.SPECULATION,
        "num_medusa_heads= num_medusa_layers= max_draft_len= medusa_hidden_act= medusa_model_dir= quant_medusa_head",
    ),
    *refused("matrices share int4 and int8 by --budget, in place of bits.", "autoq_format= auto_quantize_bits="),
    *refused("checkpoints are written in the TensorRT-LLM format.", "export_format=", fine=("tensorrt_llm",)),
)
