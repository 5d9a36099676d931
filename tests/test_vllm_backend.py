"""Models that vLLM serves: the command line that Inspect makes of them, what is asked of the server, and its end."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import psutil
import pytest

from cruijff_kit import vllm_backend
from cruijff_kit.errors import CruijffKitError
from cruijff_kit.evaluated_model import Models
from cruijff_kit.evaluation_request import Request

# In the place of the program: it answers as vLLM's server does, and an adapter answers otherwise than the base model.
FAKE = '''\
#!{python}
import json, os, sys, time
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

record = open({record!r}, "a", buffering=1)
print(json.dumps({{"pid": os.getpid(), "argv": sys.argv[1:]}}), file=record)
base, served = sys.argv[2], []
if "fails" in base:
    sys.exit("ValueError: no free memory on device")


class Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    def do_GET(self):
        if "starts" in base:
            return self.answer(503, {{}})
        self.answer(200, {{"data": [{{"id": base, "max_model_len": 256}}, *({{"id": each, "parent": base}} for each in served)]}})

    def do_POST(self):
        body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        print(json.dumps({{"path": self.path, **body}}), file=record)
        if self.path == "/v1/load_lora_adapter":
            served.append(body["lora_name"])
            return self.answer(200, {{}})
        if "hangs" in base:
            time.sleep(300)
        word = body["messages"][-1]["content"]
        message = {{"role": "assistant", "content": word[::-1] if body["model"] in served else word}}
        choice = {{"index": 0, "finish_reason": "stop", "message": message}}
        self.answer(200, {{"id": "1", "object": "chat.completion", "created": 0, "model": body["model"], "choices": [choice]}})

    def answer(self, status, value):
        body = json.dumps(value).encode()
        self.send_response(status)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *_):
        pass


port = int(sys.argv[sys.argv.index("--port") + 1])
ThreadingHTTPServer(("127.0.0.1", port), Handler).serve_forever()
'''

EVALUATE = """
import sys
from pathlib import Path
from inspect_ai import Task, eval
from inspect_ai.dataset import Sample
from cruijff_kit import vllm_backend

for base in sys.argv[1:]:
    try:
        model = vllm_backend.load(Path(base), None, "bf16", {}, has_chat_template=True)
    except RuntimeError as error:
        print(f"{base}: {error}", file=sys.stderr)
eval(Task(dataset=[Sample(input="a", target="a")]), model=model, display="none", log_realtime=False, log_dir="logs")
"""


class Vllm:
    """The program and the module, and what was asked of the program."""

    def __init__(self, folder: Path) -> None:
        self.record, self.bin, self.lib = folder / "record.jsonl", folder / "bin", folder / "lib"
        (self.lib / "vllm").mkdir(parents=True)
        (self.lib / "vllm" / "__init__.py").touch()
        self.bin.mkdir()
        (self.bin / "vllm").write_text(FAKE.format(python=sys.executable, record=str(self.record)))
        (self.bin / "vllm").chmod(0o755)

    def recorded(self) -> list[dict[str, Any]]:
        return [json.loads(line) for line in self.record.read_text().splitlines()] if self.record.exists() else []

    def started(self) -> list[list[str]]:
        """The command lines, without the port, which is any."""
        return [each["argv"][:-2] for each in self.recorded() if "argv" in each]

    def asked(self, path: str) -> list[dict[str, Any]]:
        return [{key: value for key, value in each.items() if key != "path"} for each in self.recorded() if each.get("path") == path]

    def alive(self) -> list[int]:
        pids = [each["pid"] for each in self.recorded() if "pid" in each]
        return [pid for pid in pids if psutil.pid_exists(pid) and psutil.Process(pid).status() != psutil.STATUS_ZOMBIE]


@pytest.fixture
def vllm(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Vllm]:
    fake = Vllm(tmp_path)
    monkeypatch.setenv("PATH", f"{fake.bin}{os.pathsep}{os.environ['PATH']}")
    monkeypatch.setenv("PYTHONPATH", f"{fake.lib}{os.pathsep}{os.environ.get('PYTHONPATH', '')}")
    monkeypatch.syspath_prepend(fake.lib)
    for name in ("no_proxy", "NO_PROXY"):
        monkeypatch.setenv(name, "")
    before = signal.getsignal(signal.SIGTERM)
    yield fake
    sys.modules.pop("vllm", None)
    signal.signal(signal.SIGTERM, before)
    for pid in fake.alive():
        os.kill(pid, signal.SIGKILL)


def adapter(folder: Path, rank: int) -> Path:
    """A folder with the config that torchtune writes beside an adapter."""
    folder.mkdir(parents=True)
    config = {"r": rank, "lora_alpha": 2 * rank, "target_modules": ["q_proj", "v_proj"], "peft_type": "LORA"}
    (folder / "adapter_config.json").write_text(json.dumps(config))
    return folder


def score(model: Any, log_dir: Path, generate: dict[str, Any]) -> float:
    """The share of right answers in a task of two samples, which asks for sampling itself."""
    from inspect_ai import Task, eval
    from inspect_ai.dataset import Sample
    from inspect_ai.model import GenerateConfig
    from inspect_ai.scorer import exact

    task = Task(dataset=[Sample(input=word, target=word[::-1]) for word in ("tea", "ink")], scorer=exact(), config=GenerateConfig(temperature=1.0))
    settings = vllm_backend.generation(generate, has_chat_template=True)
    log = eval(task, model=model, display="none", log_realtime=False, log_dir=str(log_dir), **settings)[0]
    assert log.status == "success", log.error
    return log.results.scores[0].metrics["mean"].value


def test_one_server_serves_the_adapters_of_several_runs_and_their_base_model(vllm, tmp_path, monkeypatch):
    monkeypatch.setenv("HTTP_PROXY", "http://127.0.0.1:9")  # as a cluster has it: the server is reached past it
    adapters = [adapter(tmp_path / "a: 1", 4), adapter(tmp_path / "b", 33)]
    generate = {"max_tokens": 4, "seed": 7}

    def load(which: Path | None) -> Any:
        return vllm_backend.load(tmp_path / "base", which, "bf16", generate, has_chat_template=True, adapters=adapters)

    models = [load(each) for each in (*adapters, None)]
    logs = tmp_path / "logs"
    assert [score(model, logs, generate) for model in (*models, models[0])] == [1, 1, 0, 1]

    serve = ["serve", f"{tmp_path}/base", "--host", "127.0.0.1", "--api-key", "inspectai", "--dtype", "bfloat16"]
    assert vllm.started() == [[*serve, "--enable-lora", "--max-lora-rank", "64"]]
    assert vllm.asked("/v1/load_lora_adapter") == [{"lora_name": str(each), "lora_path": str(each)} for each in adapters]
    requests = vllm.asked("/v1/chat/completions")
    assert [each["model"] for each in requests[::2]] == [*map(str, adapters), f"{tmp_path}/base", str(adapters[0])]
    seeds = {(each["model"], each["messages"][0]["content"]): each.pop("seed") for each in requests}
    assert len(set(seeds.values())) == 2  # a sample's own, whatever the model
    rest = {"messages": [{"role": "user", "content": "tea"}], "max_tokens": 4, "temperature": 0.0, "top_p": 1.0}
    unsaid = {"repetition_penalty": 1.0, "top_k": -1, "min_p": 0.0}  # else it would be as generation_config.json has it
    assert next({**each, "model": ""} for each in requests if each["messages"] == rest["messages"]) == {**rest, **unsaid, "model": ""}

    assert len(vllm.alive()) == 1
    vllm_backend.close(models[0])
    assert vllm.alive() == []


def test_a_base_model_without_a_chat_template_gets_plain_text_with_a_bos(vllm, tmp_path):
    model = vllm_backend.load(tmp_path / "base", None, "fp32", {"temperature": 0.5}, has_chat_template=False)
    template = "{% for message in messages %}{{ message.role }}: {{ message.content }}\n{% endfor %}"
    assert vllm.started()[0][-4:] == ["--dtype", "float32", "--chat-template", template]
    assert vllm_backend.generation({"temperature": 0.5, "top_k": 9}, has_chat_template=False) == {
        "temperature": 0.5,
        "top_p": 1.0,
        "top_k": 9,
        "extra_body": {"repetition_penalty": 1.0, "top_k": 9, "min_p": 0.0, "add_special_tokens": True},
    }
    assert model.config.model_dump(exclude_none=True) == vllm_backend.generation({"temperature": 0.5}, has_chat_template=False)
    vllm_backend.close(model)


def test_the_runs_of_a_group_share_a_server_which_ends_with_the_last(vllm, tmp_path, monkeypatch):
    (tmp_path / "base").mkdir()
    (tmp_path / "base" / "config.json").write_text("{}")
    monkeypatch.chdir(tmp_path)
    common = {"tasks": [], "experiment": "e", "folder": tmp_path, "results_dir": tmp_path, "dtype": "bf16", "device": "cuda", "generate": {}, "limit": None}
    runs = [Request(run=run, model=adapter(tmp_path / run, 4), base_model=tmp_path / "base", backend="vllm", **common) for run in ("run_000", "run_001")]
    with Models([each.model for each in runs]) as models:
        logs = [score(models.load(each), tmp_path / "logs", {}) for each in runs]
        assert (logs, len(vllm.started()), len(vllm.alive())) == ([1, 1], 1, 1)
    assert vllm.alive() == []


def test_each_epoch_of_a_sample_has_a_seed_of_its_own(vllm, tmp_path):
    from inspect_ai import Task, eval
    from inspect_ai.dataset import Sample

    model = vllm_backend.load(tmp_path / "base", None, "bf16", {}, has_chat_template=True)
    task = Task(dataset=[Sample(input="tea", target="eat")], epochs=3)
    eval(task, model=model, display="none", log_realtime=False, log_dir=str(tmp_path / "logs"), seed=7, temperature=1.0)
    assert len({each["seed"] for each in vllm.asked("/v1/chat/completions")}) == 3
    vllm_backend.close(model)


def terminate(vllm: Vllm, folder: Path, bases: list[str], path: str = "") -> str:
    """What an evaluation with these base models said that was terminated once its server was asked for `path`, or was started."""
    with subprocess.Popen([sys.executable, "-c", EVALUATE, *bases], cwd=folder, stderr=subprocess.PIPE, text=True) as evaluation:
        deadline = time.monotonic() + 90
        while not (vllm.asked(path) if path else vllm.started()) and time.monotonic() < deadline:
            time.sleep(0.1)
        assert len(vllm.alive()) == 1
        evaluation.terminate()
        _, said = evaluation.communicate(timeout=30)
    assert evaluation.returncode == 143, said
    return said


def test_a_server_that_still_starts_ends_with_an_evaluation_that_is_terminated(vllm, tmp_path):
    terminate(vllm, tmp_path, ["starts"])
    assert vllm.alive() == []


def test_a_server_ends_with_its_evaluation_and_says_why_it_did_not_start(vllm, tmp_path):
    said = terminate(vllm, tmp_path, ["fails", "hangs"], "/v1/chat/completions")
    assert vllm.alive() == []
    assert "\nValueError: no free memory on device\n" in said
    assert "\nfails: Failed to start vLLM server: Server process exited unexpectedly with code 1." in said


def load(base: Path, which: Path | None, dtype: str = "bf16") -> Any:
    return vllm_backend.load(base, which, dtype, {}, has_chat_template=True)


def test_without_vllm_it_is_said_what_to_install(tmp_path):
    with pytest.raises(CruijffKitError, match=r"^Module 'vllm' not found: pip install vllm$"):
        load(tmp_path, None)


def test_what_vllm_would_serve_otherwise_or_not_at_all_is_refused(vllm, tmp_path, monkeypatch):
    rank_4, rank_513 = adapter(tmp_path / "4", 4), adapter(tmp_path / "513", 513)
    with pytest.raises(CruijffKitError, match="vLLM computes adapters in bf16 or fp16 only: set evaluation.dtype, or merge_adapters: true"):
        load(tmp_path, rank_4, "fp32")
    assert vllm_backend._max_rank([rank_4, rank_513, tmp_path / "gone"], rank_4) == 8  # the others fail alone
    with pytest.raises(CruijffKitError, match=r"/513: vLLM serves LoRA ranks up to 512, and this one is 513: take backend: hf"):
        load(tmp_path, rank_513)
    with pytest.raises(CruijffKitError, match="/a:b: Inspect's vLLM provider takes what follows the ':' for an adapter: move the folder"):
        load(tmp_path / "a:b", None)
    monkeypatch.setenv("VLLM_BASE_URL", "http://elsewhere")
    with pytest.raises(CruijffKitError, match="VLLM_BASE_URL is set, and nobody knows which weights are served there: unset it"):
        load(tmp_path, None)
