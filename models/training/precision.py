"""Lower precision where the machine multiplies faster in it (1.3 to 1.8 times on a CPU with AVX512-BF16)."""

from __future__ import annotations

import torch


def autocast(on: torch.device, precision: str) -> torch.autocast:
    """A context for forward passes. "auto": bfloat16 on a GPU, or on a CPU that has it; "float32": as it is.

    Weights, optimiser, running average and everything that is released stay float32.
    """
    # Emulated bfloat16 is slower than float32, so only the real instruction counts.
    in_hardware = torch.cpu._is_avx512_bf16_supported() or torch.cpu._is_amx_tile_supported()
    wanted = precision == "auto" and (on.type == "cuda" or in_hardware)
    return torch.autocast(on.type, dtype=torch.bfloat16, enabled=wanted)
