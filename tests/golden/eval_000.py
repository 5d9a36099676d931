# Evaluation of run_000 of tiny.
#     python configs/eval_000.py
#     python configs/eval_000.py limit=5        (any setting below, for this once)

from cruijff_kit.evaluate import evaluate

if __name__ == "__main__":
    evaluate(
        run="run_000",
        model="/path/to/experiment/results/run_000/hf_model/epoch_0",
        train_config="train_000.yaml",
        params={"lora_rank": 2},
        tasks=[
            {"name": "capitalize", "file": "/path/to/experiment/evals/tasks.py", "function": "capitalize", "args": {}},
        ],
        experiment="tiny",
        folder="/path/to/experiment",
        results_dir="/path/to/experiment/eval_results",
        dtype="fp32",
        device="cpu",
        generate={"max_tokens": 4},
        limit=5,
    )
