"""Names of quantization under which other servers take a model, and the schemes that they are here."""

from __future__ import annotations

from collections.abc import Mapping

# What another tool rounds weights to while it loads them -> the scheme here.
SCHEMES: Mapping[str, str] = {
    "eetq": "int8_wo",
    "bitsandbytes": "int8_wo",
    "bitsandbytes-int8": "int8_wo",
    "experts_int8": "int8_wo",
    "tpu_int8": "int8_wo",
    "int8": "int8_wo",
    "int8wo": "int8_wo",
    "rtn": "int8_wo",
    "w8a8_int8": "int8_w8a8",
    "int8dq": "int8_w8a8",
    "int4wo-32": "int4_wo",
    "int4wo": "int4_wo",
    "fp8wo": "fp8_rowwise",
    "w8a8_fp8": "fp8_rowwise",
    "ptpc_fp8": "fp8_rowwise",
    "fp8dq-per_row": "fp8_rowwise",
    "fp8dq-per_tensor": "fp8_tensorwise",
    "fbgemm_fp8": "fp8_rowwise",
    "full_prec": "",
    "none": "",
    "null": "",
}

# What says that the model's files hold quantized weights already -> the quant_method that these name.
KEPT: Mapping[str, tuple[str, ...]] = {
    **dict.fromkeys(("awq", "awq_marlin"), ("awq",)),
    **dict.fromkeys(("gptq", "gptq_marlin", "gptq_marlin_24", "gptq_bitblas", "marlin"), ("gptq",)),
    "compressed-tensors": ("compressed-tensors",),
    "gguf": ("gguf",),
    **dict.fromkeys(("modelopt", "modelopt_fp8", "modelopt_fp4", "petit_nvfp4"), ("modelopt",)),
    "mxfp4": ("mxfp4",),
    "moe_wna16": ("awq", "gptq"),
}

# Of these another tool either rounds the weights or takes those that the files hold: the files decide.
EITHER: Mapping[str, tuple[str, ...]] = {
    "fp8": ("fp8", "fbgemm_fp8", "compressed-tensors", "modelopt"),
    "bitsandbytes": ("bitsandbytes",),
    "fbgemm_fp8": ("fbgemm_fp8",),
    "w8a8_fp8": ("fp8", "compressed-tensors"),
    "w8a8_int8": ("compressed-tensors",),
}

_NOT_READ = "is a format that is not read, and no scheme here. Choose another: inflight convert --help lists them"
_UNKNOWN = ("exl2", "aqlm", "hqq", "bitblas", "deepspeedfp", "qqq", "quark", "auto-round", "torchao", "qoq", "w4afp8")
UNREAD: Mapping[str, str] = {
    **dict.fromkeys((*_UNKNOWN, "mxfp8", "modelslim", "ipex", "inc", "quip", "squeezellm", "awq_gemv"), _NOT_READ),
    "bitsandbytes-fp4": "is not a scheme here. bitsandbytes-nf4 has 4 bits as well, and loses less",
    "nvfp4": "cannot be made here. Models that have it already keep their numbers: leave the option out",
}
