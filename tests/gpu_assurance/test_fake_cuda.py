"""Samplers, adaptation, storage and predictions stay on the device: no tensor, read or copy on the host.

`on_fake_cuda.py` says what is run, and what is allowed on the host and why.
"""

import json

# What the script does wrong on purpose, and how it must be reported.
DELIBERATE = {
    "FAULT read": "_local_scalar_dense.default waits for a value",
    "FAULT mask": "index.Tensor waits for a value",
    "FAULT host": "zeros.default on the host",
    "FAULT copy": "copies between host and device",
    "FAULT launch": "_finish_kernel on cuda:0, strides (1, ",
}


def test_everything_stays_on_the_device(on_fake_cuda):
    found = json.loads(on_fake_cuda("on_fake_cuda.py"))
    for name, report in DELIBERATE.items():
        faults, _ = found.pop(name)
        assert any(report in fault for fault in faults), f"{name} went unnoticed: {faults}"
    assert {name: faults for name, (faults, _) in found.items() if faults} == {}
    plain = {name for name, (_, launched) in found.items() if not launched}
    assert plain == {"predict"}, "samplers must go through the kernels"
