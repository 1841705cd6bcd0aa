"""Shares of a step's time by kind of operation."""

from types import SimpleNamespace
from typing import Any

import pytest
import torch
from torch.autograd import DeviceType

from bench import device as devices
from bench import workload
from bench.device import Device
from workloads._profile import kind_of, own_us, shares

GPU = SimpleNamespace(backend="cuda", asynchronous=True)
CPU = SimpleNamespace(backend="cpu", asynchronous=False)


def event(device_type: DeviceType, *, named_range: bool = False) -> Any:
    """As torch's profiler gives it, with 3 microseconds on the host and 5 on the device."""
    return SimpleNamespace(
        device_type=device_type, is_user_annotation=named_range, self_cpu_time_total=3.0, self_device_time_total=5.0
    )


@pytest.mark.parametrize(
    ("what", "device", "us"),
    [
        (event(DeviceType.CUDA), GPU, 5.0),
        # What a range with a name spans on the device are kernels that stand in the list themselves.
        (event(DeviceType.CUDA, named_range=True), GPU, 0.0),
        (event(DeviceType.CPU), GPU, 0.0),
        (event(DeviceType.CPU), CPU, 3.0),
        (event(DeviceType.CPU, named_range=True), CPU, 3.0),
    ],
)
def test_the_time_of_a_kernel_counts_once(what: Any, device: Device, us: float) -> None:
    assert own_us(what, device) == us


# Names of kernels of torch 2.13 for CUDA 12 and 13, shortened.
@pytest.mark.parametrize(
    ("name", "kind"),
    [
        ("nvjet_tst_128x256_64x4_2x1_v_bz_coopA_TNT", "gemm"),
        ("sm90_xmma_gemm_bf16bf16_bf16f32_f32_tn_n_tilesize128x128x64", "gemm"),
        ("void cublasLt::splitKreduce_kernel<32, 16, int, __nv_bfloat16>", "gemm"),
        ("cudnn_generated_fort_native_sdpa_sm90_flash_fprop_wgmma_f16_knob_7_64x64x128", "attention"),
        ("void pytorch_flash::flash_fwd_kernel<pytorch_flash::Flash_fwd_kernel_traits<128>>", "attention"),
        ("fmha_cutlassF_bf16_aligned_64x128_rf_sm80", "attention"),
        (
            "void at::native::(anonymous namespace)::multi_tensor_apply_kernel<FusedAdamMathFunctor<float, 4>>",
            "optimizer",
        ),
        ("void cunn_SoftMaxForward<4, float, float, float, LogSoftMaxForwardEpilogue>", "loss"),
        ("void nll_loss_forward_reduce_cuda_kernel_2d<float, float, long>", "loss"),
        ("void at::native::elementwise_kernel<128, 4, direct_copy_kernel_cuda>", "copy"),
        ("Memcpy DtoD (Device -> Device)", "copy"),
        ("triton_poi_fused_mul_silu_3", "elementwise"),
        ("aten::mm", "gemm"),
        ("aten::silu", "elementwise"),
    ],
)
def test_kernels_are_known_by_their_names(name: str, kind: str) -> None:
    assert kind_of(name) == kind


def test_the_shares_of_a_training_step_on_a_cpu_add_up_even_where_torch_has_cuda(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    (cpu,) = devices.find("cpu")
    found = shares(cpu.prepare(workload.case("train_step", dict(workload.find("train_step").smoke))).run, cpu)
    assert found["share_gemm"] > 0.0
    assert sum(map(float, found.values())) == pytest.approx(1.0, abs=0.01)


def test_kernels_that_the_profiler_does_not_see_have_no_shares() -> None:
    elsewhere = SimpleNamespace(backend="npu", asynchronous=True)
    assert shares(lambda: None, elsewhere) == {"profile": "the profiler of this torch sees no kernels on npu"}
