"""Hugging Face directory to GGUF, with llama.cpp's own converter: gguf_convert.py SOURCE_TREE MODULES MODEL OUTPUT.

The converter knows a tokenizer's way of cutting words by a digest of what it makes of a fixed text; the benchmark's
tokenizers cut words as Qwen2's does and are not in its table.
"""

from __future__ import annotations

import runpy
import sys


def main() -> None:
    tree, modules, model, output = sys.argv[1:]
    sys.path[:0] = [tree, f"{tree}/gguf-py", modules]
    from conversion.base import TextModel  # type: ignore[import-not-found]

    TextModel.get_vocab_base_pre = lambda self, tokenizer: "qwen2"
    sys.argv = ["convert_hf_to_gguf.py", model, "--outtype", "bf16", "--outfile", output]
    runpy.run_path(f"{tree}/convert_hf_to_gguf.py", run_name="__main__")


main()
