"""Adapters of several runs in one Slurm job: it begins when the last training is over, and leaves out what is not trained."""

from __future__ import annotations

import json
from pathlib import Path

from cruijff_kit import records
from tests.slurm.private_slurm import PrivateSlurm
from tests.slurm.test_sweep import Sweep
from tests.tiny_experiment import specification


def test_a_group_is_one_job_after_all_trainings_however_they_end(tmp_path: Path, tiny_model: Path, slurm: PrivateSlurm) -> None:
    spec = specification(tiny_model)
    spec["variables"] = {"corpus": [{"dataset": "data/train.jsonl"}, {"dataset": "data/gone.jsonl"}, {"dataset": "data/other.jsonl"}]}
    spec["controls"] |= {"lora_rank": 2, "lora_alpha": 4, "save_adapter_weights_only": True}
    del spec["controls"]["dataset"]
    spec["evaluation"] |= {"model_format": "adapter", "group_by_base": True}
    rows = [json.dumps({"input": f"Capitalize: {word}", "output": word.upper()}) for word in ("apple", "river", "stone", "cloud")]

    def add_data(folder: Path) -> None:
        for name in ("gone", "other"):
            (folder / f"data/{name}.jsonl").write_text("".join(f"{row[:-2]}{name}\"}}\n" for row in rows))

    sweep = Sweep(tmp_path / "a group", slurm, spec, add_data)
    (sweep.folder / "data/gone.jsonl").unlink()
    slurm.run("scontrol", "update", "PartitionName=main", "State=DOWN")  # all of it waits: the training that fails does so at once
    try:
        sent = sweep.run()
        assert sent.returncode == 0, sent.stderr
        arrays = sweep.launches[0]["arrays"]
        assert [(array["stage"], len(array["tasks"])) for array in arrays] == [("train", 3), ("eval", 1)]
        assert [line.split()[0] for line in arrays[1]["tasks"]["0"].splitlines()] == ["run_000", "run_001", "run_002"]
        status = json.loads(sweep.command("status", sweep.folder, "--json").stdout)["runs"]
        assert {run["stages"]["eval"]["state"] for run in status} <= {"waiting", "queued", "running"}
        again = sweep.run()
        assert again.returncode == 0, again.stderr
        assert len(sweep.launches) == 1  # nothing is sent twice
    finally:
        slurm.run("scontrol", "update", "PartitionName=main", "State=UP")
    sweep.wait()

    status = {run["run"]: run["stages"] for run in json.loads(sweep.command("status", sweep.folder, "--json").stdout)["runs"]}
    assert [status[run]["train"]["state"] for run in status] == ["done", "failed", "done"]
    assert [status[run]["eval"]["state"] for run in status] == ["done", "waiting", "done"]
    assert status["run_001"]["eval"]["why"] == "its training has not ended well"
    one, two = (records.read(sweep.folder / "eval_results" / run / "record.json") for run in ("run_000", "run_002"))
    assert one and two and one.job == two.job == f"{arrays[1]['job']}_0"
    assert "run_001 is left out: Cannot load model" in sweep.logs("eval")

    rest = sweep.run("stages=[eval]")  # of which only the second is left, and it is not trained
    assert "nothing is left to do" in rest.stderr, rest.stderr
