# Evaluation of base of tiny.
#     python configs/eval_base.py
#     python configs/eval_base.py limit=5        (any setting below, for this once)

from cruijff_kit.evaluate import evaluate

if __name__ == "__main__":
    evaluate(
        run="base",
        model="/models/tiny",
        params={},
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
