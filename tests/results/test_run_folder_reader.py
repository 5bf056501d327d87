"""Damage that is rare among random changes of a run's files, each named."""

import json

import pytest

import hmc_fast
from finished_run import make_run
from hmc_fast.results.run_folder_reader import read_run


@pytest.fixture
def run(tmp_path):
    return make_run(tmp_path / "run")


def test_a_trace_with_an_integer_beyond_all_floats(run):
    lines = (run / "trace.csv").read_text().splitlines()
    lines[3] = lines[3].replace(",0.01,40,", f",0.01,{'9' * 400},", 1)
    (run / "trace.csv").write_text("\n".join(lines))
    with pytest.raises(
        hmc_fast.UserError, match=r"trace.csv contains a value in the column 'leapfrog_steps' that is not"
    ):
        read_run(run)


@pytest.mark.parametrize("key", ["diagnosis", "diagnosis_kinds"])
@pytest.mark.parametrize("value", [3, "fine", ["fine", 1], {"a": "b"}])
def test_a_diagnosis_that_is_no_list_of_texts(key, value, run):
    metrics = json.loads((run / "metrics.json").read_text()) | {key: value}
    (run / "metrics.json").write_text(json.dumps(metrics))
    with pytest.raises(hmc_fast.UserError, match=f"as '{key}', which is no list of texts"):
        read_run(run)
