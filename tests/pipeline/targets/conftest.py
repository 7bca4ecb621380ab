"""What tests of several targets' engines share."""

from __future__ import annotations

import pytest
import torch

from tests.pipeline.targets.cuda_engine import CudaEngine, build_cuda_engine


@pytest.fixture(scope="session")
def built(tmp_path_factory: pytest.TempPathFactory) -> CudaEngine:
    """An engine of the cuda target in float32."""
    pytest.importorskip("triton", reason="pip install 'inflight-llm[cuda-compile]'")
    return build_cuda_engine(tmp_path_factory.mktemp("cuda"), torch.float32)
