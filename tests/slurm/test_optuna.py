"""hydra/sweeper=optuna on a real Slurm: it chooses points by what earlier ones returned, and so has to wait for them."""

from __future__ import annotations

from tests.slurm.staged_app import StagedApp

OPTUNA = [
    "hydra/sweeper=optuna",
    "hydra/sweeper/sampler=random",
    "hydra.sweeper.sampler.seed=1",
    "hydra.sweeper.direction=minimize",
    "hydra.sweeper.n_trials=6",
    "hydra.sweeper.n_jobs=2",
    "x=choice(1,2,3)",  # six trials of three values: points repeat
    "score=true",
    "cluster.train.gpus_per_node=0",
    "cluster.eval.gpus_per_node=0",
]


def test_without_waiting_it_is_an_error_before_anything_is_sent(app: StagedApp) -> None:
    done = app.run(*OPTUNA)
    assert (done.returncode, done.stdout) == (1, "")
    assert done.stderr == (
        "hydra/sweeper=optuna chooses points by the values of others, and has to wait for them\n"
        "  hydra.launcher.wait=true\n"
        "\nSet the environment variable HYDRA_FULL_ERROR=1 for a complete stack trace.\n"
    )
    assert not (app.folder / "slurm").exists() and app.events(event="start") == []


def test_it_finds_the_best_point_and_one_that_comes_again_runs_once(app: StagedApp) -> None:
    done = app.run(*OPTUNA, "hydra.launcher.wait=true")
    assert done.returncode == 0, done.stderr
    (results,) = app.folder.glob("out/optimization_results.yaml")
    assert results.read_text() == "name: optuna\nbest_params:\n  x: 2\nbest_value: 0.0\n"
    started = app.did(event="start")
    assert ("eval", 2) in started
    assert len(started) == len(set(started)) <= 2 * 3 < 2 * 6
    assert app.did() == started
