"""How long start-up and generate take, beside Hydra's own compose in the same run: `python -m tests.benchmarks`."""

from __future__ import annotations

import shutil
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import yaml

REPOSITORY = Path(__file__).resolve().parent.parent.parent
COMMAND = Path(sys.executable).with_name("cruijff-kit")


def seconds(command: list[str | Path], repeats: int = 5) -> float:
    """The shortest of some runs of `command`: the others measure what else the machine did."""
    times = []
    for _ in range(repeats):
        start = time.perf_counter()
        subprocess.run(command, check=True, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, stdin=subprocess.DEVNULL)
        times.append(time.perf_counter() - start)
    return min(times)


def sweep(folder: Path, runs: int) -> Path:
    """The rank study with `runs` points: four ranks, and as many seeds as that takes."""
    target = folder / str(runs)
    shutil.copytree(REPOSITORY / "examples" / "lora_rank_with_eval", target)
    spec = yaml.safe_load((target / "experiment.yaml").read_text())
    if runs > 4:
        del spec["controls"]["seed"]
        spec["variables"]["seed"] = list(range(runs // 4))
    (target / "experiment.yaml").write_text(yaml.safe_dump(spec, sort_keys=False))
    return target


def compose_ms(folder: Path, points: int = 20) -> float:
    """Milliseconds that Hydra's compose takes for one point of the sweep in `folder`."""
    from hydra import compose, initialize_config_dir
    from hydra.core.config_store import ConfigStore

    from cruijff_kit.app import register_open_nodes
    from cruijff_kit.paths import conf_dir

    register_open_nodes()
    ConfigStore.instance()
    with initialize_config_dir(str(conf_dir()), version_base="1.3"):
        words = [f"hydra.searchpath=[file://{folder}/configs]"]
        compose("cruijff_kit", overrides=words)
        start = time.perf_counter()
        for point in range(points):
            compose("cruijff_kit", overrides=[*words, f"stages=[{point}]"])
        return (time.perf_counter() - start) / points * 1000


def main() -> None:
    print(f"cruijff-kit --help           {seconds([COMMAND, '--help']):7.2f} s    goal 0.3 s")
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        for runs, repeats, goal in ((4, 5, "goal 1 s"), (1000, 3, "goal 2 s"), (4000, 1, "goal 8 s")):
            target = sweep(folder, runs)
            command = [COMMAND, "generate", "--yes", target]
            first = seconds(command, 1)
            for _ in range(repeats - 1):
                shutil.rmtree(target / "configs")
                first = min(first, seconds(command, 1))
            print(f"generate of {runs:5,} points     {first:7.2f} s    {goal}    {first / runs * 1000:.2f} ms a point")
            print(f"  again, nothing to write     {seconds(command, 1):7.2f} s")
        print(f"Hydra's compose of one point  {compose_ms(folder / '4'):7.1f} ms")


if __name__ == "__main__":
    main()
