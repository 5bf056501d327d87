"""Every Triton kernel compiles for an H100 (sm_90), which needs no GPU, keeps its 16-byte accesses and its
registers.

The interpreter that other tests use checks neither types nor control flow as the compiler does. Compiling is
done by this file run as a script, since the interpreter, once on, replaces the compiler in a process.
"""

import json
import os
import re
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

import pytest

pytestmark = pytest.mark.slow

F32, F64, I64 = "*fp32", "*fp64", "*i64"
UPDATE = {"theta_ptr": F32, "momentum_ptr": F32, "grad_ptr": F32, "coefficients_ptr": F32}
ENERGY = {"theta_ptr": F32, "partials_ptr": F64}
DIFFERENCE = ENERGY | {"new_theta_ptr": F32, "momentum_ptr": F32, "new_momentum_ptr": F32}
DOUBLE = {"theta_ptr": F64, "momentum_ptr": F64, "grad_ptr": F64, "coefficients_ptr": F64, "scale_ptr": F64}
AVERAGE = {"logits_ptr": F32, "sums_ptr": F64, "entropies_ptr": F64, "probabilities_ptr": F32}
TEST = {
    "energy_error_ptr": F64,
    "uniform_ptr": F32,
    "untested_ptr": "*i1",
    "accepted_ptr": "*i1",
    "accept_prob_ptr": F64,
    "divergent_ptr": "*i1",
}
NORMAL, LOGISTIC, STUDENT_T, MIXTURE = 1, 3, 4, 5

# name -> (file, kernel, pointers that are not None, constexpr arguments, whether sizes divide by 16)
VARIANTS: dict[str, tuple[str, str, dict[str, str], dict[str, Any], bool]] = {
    "kick_drift": ("leapfrog", "_kick_kernel", UPDATE, {"FAMILY": NORMAL, "DRIFT": True}, True),
    "kick_drift ragged": ("leapfrog", "_kick_kernel", UPDATE, {"FAMILY": NORMAL, "DRIFT": True}, False),
    "kick_drift noise": (
        "leapfrog",
        "_kick_kernel",
        UPDATE | {"step_ptr": I64, "inverse_mass_ptr": F32},
        {"FAMILY": NORMAL, "DRIFT": True},
        True,
    ),
    "kick_drift noise ragged": (
        "leapfrog",
        "_kick_kernel",
        UPDATE | {"step_ptr": I64, "inverse_mass_ptr": F32},
        {"FAMILY": NORMAL, "DRIFT": True},
        False,
    ),
    "kick_drift mean": (
        "leapfrog",
        "_kick_kernel",
        UPDATE | {"mean_ptr": F32},
        {"FAMILY": NORMAL, "DRIFT": True},
        True,
    ),
    "kick float64": ("leapfrog", "_kick_kernel", DOUBLE, {"FAMILY": MIXTURE, "DRIFT": False}, True),
    "kick logistic": ("leapfrog", "_kick_kernel", UPDATE, {"FAMILY": LOGISTIC, "DRIFT": False}, True),
    "flow": ("flow", "_flow_kernel", UPDATE | {"step_ptr": I64}, {"FAMILY": NORMAL}, True),
    "flow ragged": (
        "flow",
        "_flow_kernel",
        UPDATE | {"step_ptr": I64, "inverse_mass_ptr": F32},
        {"FAMILY": NORMAL},
        False,
    ),
    "flow unkicked": (
        "flow",
        "_flow_kernel",
        {name: kind for name, kind in UPDATE.items() if name != "grad_ptr"} | {"step_ptr": I64},
        {"FAMILY": NORMAL},
        True,
    ),
    "force": (
        "leapfrog",
        "_kick_kernel",
        {name: kind for name, kind in UPDATE.items() if name != "coefficients_ptr"},
        {"FAMILY": NORMAL, "DRIFT": False},
        True,
    ),
    "refresh": ("momentum", "_refresh_kernel", UPDATE | {"partials_ptr": F64, "step_ptr": I64}, {}, True),
    "uniforms": ("random", "_random_kernel", {"out_ptr": F32, "step_ptr": I64}, {"UNIFORM": True}, False),
    "words": ("random", "_random_kernel", {"out_ptr": I64, "step_ptr": I64}, {"UNIFORM": False}, False),
    "log_prior": ("energy", "_energy_kernel", ENERGY | {"scale_ptr": F32}, {"FAMILY": STUDENT_T}, True),
    "difference": ("energy", "_energy_kernel", DIFFERENCE, {"FAMILY": MIXTURE}, True),
    "likelihood": (
        "energy",
        "_likelihood_kernel",
        {"log_lik_ptr": F32, "new_log_lik_ptr": F32, "partials_ptr": F64},
        {},
        True,
    ),
    "metropolis": ("metropolis", "_metropolis_kernel", TEST, {"DENSITY_RATIO": False, "BLOCK": 128}, False),
    "metropolis density": (
        "metropolis",
        "_metropolis_kernel",
        {name: kind for name, kind in TEST.items() if name != "untested_ptr"},
        {"DENSITY_RATIO": True, "BLOCK": 128},
        False,
    ),
    "indices": (
        "minibatch",
        "_read_window_kernel",
        {"window_ptr": I64, "step_ptr": I64, "out_ptr": I64},
        {},
        False,
    ),
    "schedule": (
        "minibatch",
        "_read_window_kernel",
        {"window_ptr": F32, "step_ptr": I64, "out_ptr": F32},
        {},
        False,
    ),
    "end_step": (
        "minibatch",
        "_end_step_kernel",
        {"log_lik_ptr": F32, "total_ptr": F64, "step_ptr": I64},
        {},
        False,
    ),
    "difference mean": ("energy", "_energy_kernel", DIFFERENCE | {"mean_ptr": F32}, {"FAMILY": MIXTURE}, True),
    "finish": ("reduce", "_finish_kernel", {"partials_ptr": F64, "out_ptr": F64}, {}, True),
    "select": (
        "select",
        "_select_kernel",
        {"target_ptr": F32, "source_ptr": F32, "mask_ptr": "*i1"},
        {},
        True,
    ),
    "store": (
        "store",
        "_store_kernel",
        {"slot_ptr": "*fp16", "theta_ptr": F32, "counts_ptr": I64},
        {},
        True,
    ),
    "store bfloat16": (
        "store",
        "_store_kernel",
        {"slot_ptr": "*bf16", "theta_ptr": F64, "counts_ptr": I64},
        {},
        True,
    ),
    "average": ("average", "_average_kernel", AVERAGE, {"ROWS": 64, "COLUMNS": 16}, False),
    "average wide": ("average", "_average_kernel", AVERAGE, {"ROWS": 1, "COLUMNS": 1024}, True),
    "average float64": (
        "average",
        "_average_kernel",
        AVERAGE | {"logits_ptr": F64, "probabilities_ptr": F64},
        {"ROWS": 64, "COLUMNS": 16},
        False,
    ),
    "average bfloat16": (
        "average",
        "_average_kernel",
        AVERAGE | {"logits_ptr": "*bf16"},
        {"ROWS": 8, "COLUMNS": 128},
        False,
    ),
}


def compile_variant(
    module: str, kernel: str, pointers: dict[str, str], constants: dict[str, Any], aligned: bool
) -> dict[str, Any]:
    """For sm_90: accesses of global memory as PTX names them; registers, and bytes of stack, of a thread."""
    import importlib

    import triton
    from triton.backends.compiler import GPUTarget
    from triton.compiler import ASTSource

    from hmc_fast.kernels import launch, reduce

    function = getattr(importlib.import_module(f"hmc_fast.kernels.{module}"), kernel)
    block, warps = (launch.BLOCK, launch.NUM_WARPS)
    if module in ("energy", "reduce"):
        block, warps = reduce.BLOCK, reduce.NUM_WARPS
    if module in ("leapfrog", "flow") and "step_ptr" in pointers:
        warps = launch.NOISE_WARPS
    signature, fixed, attributes = {}, {}, {}
    for i, parameter in enumerate(function.params):
        name = parameter.name
        if parameter.is_constexpr or (name.endswith("_ptr") and name not in pointers):
            signature[name] = "constexpr"
            fixed[(i,)] = ({"BLOCK": block} | constants).get(name)
            continue
        signature[name] = pointers.get(name) or parameter.annotation_type or "i32"
        integer = signature[name] == "i32" and not parameter.do_not_specialize
        if name in pointers or (integer and aligned):
            attributes[(i,)] = [["tt.divisibility", 16]]
    source = ASTSource(fn=function, signature=signature, constexprs=fixed, attrs=attributes)
    compiled = triton.compile(
        source, target=GPUTarget("cuda", 90, 32), options={"num_warps": warps} | launch.UNFUSED
    )
    with tempfile.NamedTemporaryFile(suffix=".cubin") as file:
        file.write(compiled.asm["cubin"])
        file.flush()
        command = [
            Path(triton.__file__).parent / "backends/nvidia/bin/cuobjdump",
            "--dump-resource-usage",
            file.name,
        ]
        usage = subprocess.run(command, capture_output=True, text=True, check=True).stdout
    return {
        "accesses": re.findall(r"\b((?:ld|st)\.global[.\w:]*)", compiled.asm["ptx"]),
        "registers": int(re.findall(r"REG:(\d+)", usage)[0]),
        "stack": int(re.findall(r"STACK:(\d+)", usage)[0]),
    }


@pytest.fixture(scope="module")
def compiled(tmp_path_factory: pytest.TempPathFactory) -> dict[str, dict[str, Any]]:
    """What `compile_variant` says of every kernel variant."""
    environment = {k: v for k, v in os.environ.items() if k != "TRITON_INTERPRET"}
    environment["TRITON_CACHE_DIR"] = str(tmp_path_factory.mktemp("triton"))
    done = subprocess.run(
        [sys.executable, str(Path(__file__))], env=environment, capture_output=True, text=True, timeout=300
    )
    assert done.returncode == 0, done.stderr[-3000:]
    found: dict[str, dict[str, Any]] = json.loads(done.stdout)
    return found


def test_every_kernel_compiles(compiled: dict[str, dict[str, Any]]) -> None:
    assert set(compiled) == set(VARIANTS)
    assert all(kernel["accesses"] for kernel in compiled.values())


def test_no_kernel_needs_a_stack(compiled: dict[str, dict[str, Any]]) -> None:
    """It is slow memory, and a sign of spilt registers or of a library's slow path."""
    assert {name: kernel["stack"] for name, kernel in compiled.items() if kernel["stack"]} == {}


@pytest.mark.parametrize("name", ["kick_drift noise", "kick_drift noise ragged", "flow", "flow ragged"])
def test_noise_leaves_registers_for_half_of_all_warps(compiled: dict[str, dict[str, Any]], name: str) -> None:
    """64 registers for each of 32 warps of a multiprocessor. Ragged: no size divides by 16, as with D = 69,034."""
    assert compiled[name]["registers"] <= 64


@pytest.mark.parametrize(
    "name", ["kick_drift", "kick_drift noise", "kick_drift mean", "flow", "kick logistic", "select", "average wide"]
)
def test_updates_move_16_bytes_per_access(compiled: dict[str, dict[str, Any]], name: str) -> None:
    """1,024 float32 over 128 threads: two 16-byte accesses per buffer and thread. With noise 256 threads: one."""
    wide = [a for a in compiled[name]["accesses"] if ".v4.b32" in a]
    expected = {"kick_drift": (6, 4), "kick_drift noise": (4, 2), "kick logistic": (6, 2), "select": (2, 2)}
    expected |= {"average wide": (2, 2), "kick_drift mean": (8, 4), "flow": (3, 2)}
    loads, stores = expected[name]
    assert sum(a.startswith("ld") for a in wide) == loads
    assert sum(a.startswith("st") for a in wide) == stores


if __name__ == "__main__":
    print(json.dumps({name: compile_variant(*variant) for name, variant in VARIANTS.items()}))
