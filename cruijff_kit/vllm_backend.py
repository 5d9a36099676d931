"""Models that vLLM serves, with a LoRA adapter on them or without, by way of Inspect's own provider.

The provider starts `vllm serve BASE` on this machine; adapters on one base model share its server.
"""

from __future__ import annotations

import atexit
import contextlib
import importlib.util
import json
import logging
import os
import sys
from collections import Counter
from collections.abc import Collection, Iterable, Mapping, Sequence
from functools import cache
from pathlib import Path
from typing import Any

from cruijff_kit.errors import CruijffKitError
from cruijff_kit.evaluation_request import TORCH_DTYPES
from cruijff_kit.process_family import exit_when_told
from cruijff_kit.seeded_sampling import sample_seed

RANKS = (8, 16, 32, 64, 128, 256, 320, 512)  # what --max-lora-rank takes, beside 1
START_LIMIT_S = 1800  # weights are read and kernels compiled; the provider would wait for ever
GRACE_S = 10.0  # for a server to end by itself


def load(
    base: Path,
    adapter: Path | None,
    dtype: str,
    generate: Mapping[str, Any],
    *,
    has_chat_template: bool,
    adapters: Sequence[Path] = (),
) -> Any:
    """An Inspect Model whose server runs, with the adapter on it, until `close` or the end of this process.

    Args:
        adapter: folder of a LoRA adapter in peft's format; None for the base model itself.
        generate: Inspect's generation settings; greedy without a temperature.
        adapters: all that will be asked for on this base model: the first load starts the server for them.

    Raises:
        CruijffKitError: vLLM is not installed, or would serve something else.
        RuntimeError: the server did not start, or did not take the adapter; what it said is on stderr.
    """
    wanted = [*([adapter] if adapter else []), *adapters]
    _check(base, wanted, dtype)
    arguments = _server_arguments(wanted, adapter, dtype, has_chat_template)
    from inspect_ai.model import GenerateConfig, get_model

    _prepare()
    before = _children()
    try:
        model = get_model(
            f"vllm/{base.absolute()}" + (f":{adapter.absolute()}" if adapter else ""),
            config=GenerateConfig(**generation(generate, has_chat_template)),
            memoize=False,
            lazy_init=False,  # else a server that cannot start would fail sample by sample
            **arguments,
        )
    except BaseException:  # of a signal's handler too: the provider has no hold on a server that is still starting
        _end(_children() - before)
        raise
    _seed_by_sample(model.api)
    atexit.register(close, model)
    return model


def _seed_by_sample(api: Any) -> None:
    """Has each sample and epoch ask with a seed of its own: with one for all, every epoch would get the same answer."""
    ask, asked = api.generate, Counter()

    async def generate(input: Any, tools: Any, tool_choice: Any, config: Any) -> Any:
        if config.seed is not None:
            own = sample_seed(config.seed, repr([(message.role, message.text) for message in input]), asked)
            config = config.model_copy(update={"seed": own % 2**31})
        return await ask(input, tools, tool_choice, config)

    api.generate = generate


def close(model: Any) -> None:
    """Ends the model's server, if it runs: the next base model needs the memory. Other models on it would start it again."""
    import psutil

    process = model.api._server.process
    if process is not None and process.poll() is None:
        _end([psutil.Process(process.pid)])
    model.api.close()


def generation(generate: Mapping[str, Any], has_chat_template: bool) -> dict[str, Any]:
    """Inspect's generation settings for vLLM; to be given to the evaluation as well, where they go before a task's own.

    What is not given the server takes from the model's generation_config.json, a repetition_penalty for greedy answers
    too: so all of it is given. Inspect hands no top_k on. Of a chat template the server adds no BOS of its own; without a
    template, plain text has one, as it has in transformers.
    """
    body = {"repetition_penalty": 1.0, "top_k": generate.get("top_k", -1), "min_p": 0.0}
    plain = {} if has_chat_template else {"add_special_tokens": True}
    return {"temperature": 0.0, "top_p": 1.0, **generate, "extra_body": {**body, **plain, **generate.get("extra_body", {})}}


def _server_arguments(adapters: Collection[Path], adapter: Path | None, dtype: str, has_chat_template: bool) -> dict[str, Any]:
    arguments: dict[str, Any] = {"host": "127.0.0.1", "timeout": START_LIMIT_S, "dtype": TORCH_DTYPES[dtype]}
    if not has_chat_template:
        arguments["use_chat_template"] = False  # the same plain text as that of Inspect's provider hf
    if adapters:
        arguments |= {"enable_lora": True, "max_lora_rank": _max_rank(adapters, adapter)}
    return arguments


def _max_rank(adapters: Iterable[Path], adapter: Path | None) -> int:
    """The least that --max-lora-rank may be, for it takes no other numbers; one that is too high is refused when it is asked for."""
    configs = {each: each / "adapter_config.json" for each in adapters}
    ranks = {each: json.loads(config.read_text(encoding="utf-8"))["r"] for each, config in configs.items() if config.is_file()}
    if adapter is not None and ranks[adapter] > RANKS[-1]:
        raise CruijffKitError(f"{adapter}: vLLM serves LoRA ranks up to {RANKS[-1]}, and this one is {ranks[adapter]}: take backend: hf")
    highest = max((rank for rank in ranks.values() if rank <= RANKS[-1]), default=RANKS[0])
    return next(rank for rank in RANKS if rank >= highest)


def _check(base: Path, adapters: Collection[Path], dtype: str) -> None:
    if importlib.util.find_spec("vllm") is None:
        raise CruijffKitError("Module 'vllm' not found: pip install vllm")
    if "VLLM_BASE_URL" in os.environ:
        raise CruijffKitError("VLLM_BASE_URL is set, and nobody knows which weights are served there: unset it")
    if adapters and dtype == "fp32":
        raise CruijffKitError("vLLM computes adapters in bf16 or fp16 only: set evaluation.dtype, or merge_adapters: true")
    if ":" in str(base.absolute()):
        raise CruijffKitError(f"{base.absolute()}: Inspect's vLLM provider takes what follows the ':' for an adapter: move the folder")


@cache
def _prepare() -> None:
    """Once: that `vllm` is that of this Python, that it is reached without a proxy, that it is heard, and that it ends with us."""
    os.environ["PATH"] = f"{Path(sys.executable).parent}{os.pathsep}{os.environ.get('PATH', '')}"
    for name in ("no_proxy", "NO_PROXY"):
        os.environ[name] = ",".join(filter(None, [os.environ.get(name), "localhost"]))
    said = logging.getLogger("inspect_ai._util.local_server")
    said.addHandler(logging.StreamHandler())
    said.setLevel(logging.INFO)
    said.propagate = False
    exit_when_told()  # else SIGTERM would end us without a word to the server


def _children() -> set[Any]:
    import psutil

    return set(psutil.Process().children())


def _end(processes: Iterable[Any]) -> None:
    """Terminates the processes, and kills what is left of them and of all that they started."""
    import psutil

    family = set(processes)
    for process in processes:
        with contextlib.suppress(psutil.Error):  # it has ended meanwhile
            family.update(process.children(recursive=True))
            process.terminate()
    _, left = psutil.wait_procs(family, GRACE_S)
    for process in left:
        with contextlib.suppress(psutil.Error):
            process.kill()
    psutil.wait_procs(left, GRACE_S)
