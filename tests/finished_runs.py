"""What a finished training and its evaluation leave, made without either: for what only looks at it."""

from __future__ import annotations

import hashlib
import json
import os
import struct
import time
from pathlib import Path
from typing import Any

from cruijff_kit import atomic, checkpoint, inputs, records, task_source
from cruijff_kit.evaluation_request import Request, script_digest
from cruijff_kit.paths import HIDDEN, Layout
from cruijff_kit.records import Record


def record(layout: Layout, run: str, stage: str, identity: str, **values: Any) -> Record:
    """Writes the record of a stage that ended well a minute ago, unless `values` say otherwise."""
    known = {"state": records.DONE, "attempt": 1, "started_s": time.time() - 90, "host": os.uname().nodename, "pid": os.getpid()}
    made = Record(run=run, stage=stage, config=identity, **{**known, "ended_s": time.time() - 60, **values})
    records.write(layout.record(stage, run), made)
    return made


def train(layout: Layout, run: str, identity: str) -> Path:
    """Leaves what a training of one epoch does: the weights, torchtune's copy of the config, and the record."""
    results = layout.run_results(run)
    model = results / "hf_model" / "epoch_0"
    model.mkdir(parents=True, exist_ok=True)
    (results / checkpoint.CONFIG_COPY).write_bytes(layout.train_config(run).read_bytes())
    header = json.dumps({"weight": {"dtype": "F32", "shape": [1], "data_offsets": [0, 4]}}).encode()
    (model / "model.safetensors").write_bytes(struct.pack("<Q", len(header)) + header + bytes(4))
    (model / "config.json").write_text("{}")
    record(layout, run, "train", identity, epochs=1, weights=checkpoint.seal(model, results), exit_code=0)
    return model


def evaluate(layout: Layout, run: str, identity: str, only: tuple[str, ...] = ()) -> None:
    """Leaves results.json of each task, or of those named, and the record."""
    script = layout.eval_script(run)
    each = Request.in_script(script).each()
    for request, task in ((request, task) for request in each for task in request.tasks):
        if only and task["name"] not in only:
            continue
        settings = {**request.settings(task), "files": task_source.digest(Path(task["file"]), task["function"])}
        results = {
            "experiment": request.experiment, "run": run, "task": task["name"], "status": "success", "error": None, "train_config": identity, "trained_with": {},
            "checkpoint": request.shown(request.model), "weights_stamp": checkpoint.stamp(request.model), "settings": settings,
            "script": script_digest(script), "words": [], "data": inputs.data_digest(Path(task["file"]).parent, layout.folder / HIDDEN),
            "digest": hashlib.sha256(f"{run} {task['name']}".encode()).hexdigest()[:16],
        }  # fmt: skip
        atomic.write_json(request.scores / task["name"] / "results.json", results)
    record(layout, run, "eval", identity)
