"""Sampling in which each answer depends on its seed and its sample alone, whatever else is in the batch.

Inspect's Hugging Face provider seeds torch once, and its batches are what is
waiting at the moment: which random numbers a sample gets depends on time, and on
what an interrupted evaluation had done before. Here each row of a batch draws
from numbers of its own.
"""

from __future__ import annotations

import hashlib
import random
from collections import Counter, defaultdict
from collections.abc import Callable, Sequence
from typing import Any

# of generation_config.json: which tokens begin and end a text is of the model; how it is sampled is of the experiment
_OF_THE_MODEL = ("bos_token_id", "eos_token_id", "pad_token_id", "decoder_start_token_id")


class SeededSampling:
    """What a subclass of Inspect's HuggingFaceAPI inherits first, so that a seed means the same answers twice.

    Of generation_config.json beside the weights only the tokens are used; `not_used` is the rest.

    A sample's numbers are those of the seed, its id, the epoch, the prompt, and
    the times that the sample has asked the same before. Only temperature, top_p
    and top_k apply, as transformers applies them; without a seed the numbers are
    new each time. Greedy decoding is as Inspect's provider does it.
    """

    def __init__(self, *arguments: Any, **settings: Any) -> None:
        super().__init__(*arguments, **settings)
        self._rows: dict[tuple[int, ...], list[int | None]] = defaultdict(list)
        self._asked: Counter[tuple[Any, ...]] = Counter()
        self.model: Any
        self.tokenizer: Any
        self.not_used = own_settings_only(self.model)
        self._generate: Callable[..., Any] | None = self.model.generate
        self.model.generate = _seeded(self)

    async def generate(self, input: Any, tools: Any, tool_choice: Any, config: Any) -> Any:
        prompt = self.hf_chat(input, tools)  # type: ignore[attr-defined]
        tokens = tuple(self.tokenizer(prompt, **self.tokenizer_call_args)["input_ids"])  # type: ignore[attr-defined]
        self._rows[tokens].append(None if config.seed is None else self._row_seed(config.seed, prompt))
        # up to the queue it awaits nothing: equal prompts are batched in the order in which they are listed here
        return await super().generate(input, tools, tool_choice, config)  # type: ignore[misc]

    def close(self) -> None:
        """Lets go of the model: Inspect's thread holds its last batch, and with it our `generate`, until there is another."""
        self._generate = None
        super().close()  # type: ignore[misc]

    def _row_seed(self, seed: int, prompt: str) -> int:
        return sample_seed(seed, prompt, self._asked)

    def _take(self, tokens: Sequence[int]) -> int | None:
        """The seed of the first request that waits with these tokens."""
        waiting = self._rows[tuple(tokens)]
        seed = waiting.pop(0)
        if not waiting:
            del self._rows[tuple(tokens)]
        return seed


def sample_seed(seed: int, prompt: str, asked: Counter[Any]) -> int:
    """What the sample that is being solved draws with, by its id, its epoch, and how often it has asked this; `asked` counts that."""
    from inspect_ai.solver._task_state import sample_state

    state = sample_state()
    what = (seed, prompt, *((str(state.sample_id), state.epoch) if state else ()))
    asked[what, state.uuid if state else None] += 1
    times = asked[what, state.uuid if state else None]
    return int.from_bytes(hashlib.sha256(repr((what, times)).encode()).digest())


def _seeded(api: SeededSampling) -> Callable[..., Any]:
    """transformers' `generate` of the API's model, which draws for each row by itself."""

    def seeded(*, input_ids: Any, attention_mask: Any, do_sample: bool, **settings: Any) -> Any:
        seeds = [api._take(row[mask.bool()].tolist()) for row, mask in zip(input_ids, attention_mask)]
        warpers = _warpers(*(settings.pop(name, None) for name in ("temperature", "top_k", "top_p")))
        if do_sample:
            settings["logits_processor"] = [*warpers, _RowSampler(seeds)]
        assert api._generate is not None
        return api._generate(input_ids=input_ids, attention_mask=attention_mask, do_sample=False, **settings)

    return seeded


def _warpers(temperature: float | None, top_k: int | None, top_p: float | None) -> list[Any]:
    """What narrows the choice, in the order of transformers' own sampling."""
    from transformers.generation import TemperatureLogitsWarper, TopKLogitsWarper, TopPLogitsWarper

    warpers: list[Any] = [TemperatureLogitsWarper(float(temperature))] if temperature else []
    if top_k:
        warpers.append(TopKLogitsWarper(top_k))
    if top_p is not None and top_p < 1:
        warpers.append(TopPLogitsWarper(top_p))
    return warpers


class _RowSampler:
    """A logits processor that leaves each row one token, drawn with the row's own random numbers."""

    def __init__(self, seeds: Sequence[Any]) -> None:
        self._numbers = [random.Random(seed) for seed in seeds]

    def __call__(self, input_ids: Any, scores: Any) -> Any:
        import torch

        # in float64, which Apple's GPUs lack: CUDA's cumsum does not add in the same order twice (torch.use_deterministic_algorithms)
        wide = torch.float32 if scores.device.type == "mps" else torch.float64
        draws = torch.tensor([[numbers.random()] for numbers in self._numbers], dtype=wide, device=scores.device)
        sums = scores.to(wide).softmax(-1).cumsum(-1)  # the last may be a little below 1
        tokens = torch.searchsorted(sums, draws * sums[:, -1:], right=True)
        return torch.full_like(scores, float("-inf")).scatter_(1, tokens.clamp(max=scores.shape[-1] - 1), 0.0)


def own_settings_only(model: Any) -> dict[str, Any]:
    """Leaves of the model's generation_config.json what its tokens are, and returns the rest, which no longer applies.

    transformers applies a repetition_penalty that stands there to greedy decoding too.
    """
    from transformers import GenerationConfig

    given = model.generation_config.to_diff_dict()
    model.generation_config = GenerationConfig(**{name: given[name] for name in _OF_THE_MODEL if name in given})
    return {name: value for name, value in given.items() if name not in (*_OF_THE_MODEL, "transformers_version", "_from_model_config")}
