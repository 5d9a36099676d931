"""How long start-up and generate take, beside Hydra's own compose in the same run: `python -m tests.benchmarks`."""

from __future__ import annotations

import shutil
import subprocess
import sys
import tempfile
import time
import warnings
from pathlib import Path

import yaml

from tests.benchmarks import slurm

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
    """Milliseconds that Hydra's compose takes for each of the first points of the sweep in `folder`."""
    from hydra import compose, initialize_config_dir
    from hydra.core.config_store import ConfigStore

    from cruijff_kit.app import register_open_nodes
    from cruijff_kit.paths import conf_dir

    warnings.simplefilter("ignore")  # Hydra's, of a schema of the plugin's own
    register_open_nodes()
    ConfigStore.instance()
    runs = yaml.safe_load((folder / "configs" / "run_mapping.yaml").read_text())["runs"][:points]
    with initialize_config_dir(str(folder / "configs"), version_base="1.3"):
        words = [f"hydra.searchpath=[file://{conf_dir()}]"]
        compose("multirun", overrides=words)
        start = time.perf_counter()
        for run in runs:
            compose("multirun", overrides=[*words, *(f"{name}={value}" for name, value in run["params"].items())])
        return (time.perf_counter() - start) / len(runs) * 1000


def generate_seconds(target: Path, repeats: int) -> float:
    """The shortest of some first generates of `target`."""
    times = []
    for _ in range(repeats):
        for name in ("configs", "scripts", "results", ".cruijff-kit"):
            shutil.rmtree(target / name, ignore_errors=True)
        times.append(seconds([COMMAND, "generate", "--yes", target], 1))
    return min(times)


def bare_seconds(target: Path) -> float:
    """How long the same files, folders and links take with nothing else done: the least that generate could."""
    made = [path for name in ("configs", "scripts", "results") for path in (target / name).rglob("*")]
    files = {path.relative_to(target): path.read_bytes() for path in made if path.is_file() and not path.is_symlink()}
    links = {path.relative_to(target): path.readlink() for path in made if path.is_symlink()}
    with tempfile.TemporaryDirectory(dir=target.parent) as name:
        start = time.perf_counter()
        for folder in {path.parent for path in (*files, *links)}:
            Path(name, folder).mkdir(parents=True, exist_ok=True)
        for path, content in files.items():
            Path(name, path).write_bytes(content)
        for path, to in links.items():
            Path(name, path).symlink_to(to)
        return time.perf_counter() - start


def main() -> None:
    print(f"cruijff-kit --help           {seconds([COMMAND, '--help']):7.2f} s    goal 0.3 s")
    took, bare = {}, {}
    with tempfile.TemporaryDirectory() as name:
        for runs, repeats, goal in ((4, 5, "goal 1 s"), (1000, 3, "goal 2 s"), (4000, 2, "goal 8 s")):
            target = sweep(Path(name), runs)
            took[runs] = generate_seconds(target, repeats)
            bare[runs] = bare_seconds(target)
            print(f"generate of {runs:5,} points     {took[runs]:7.2f} s    {goal}    the same files alone: {bare[runs]:.2f} s")
            print(f"  again, nothing to write     {seconds([COMMAND, 'generate', '--yes', target], repeats):7.2f} s")
            print(f"  check                       {seconds([COMMAND, 'check', target], repeats):7.2f} s")
        each, files = ([(s[more] - s[less]) / (more - less) * 1000 for less, more in ((4, 1000), (1000, 4000))] for s in (took, bare))
        compose = compose_ms(Path(name) / "1000")
    print(f"each further point            {each[0]:7.2f} ms up to 1,000, {each[1]:.2f} ms up to 4,000    goal 1.5 ms")
    print(f"  its files alone             {files[0]:7.2f} ms up to 1,000, {files[1]:.2f} ms up to 4,000")
    print(f"Hydra's compose of a point    {compose:7.1f} ms    {compose / each[0]:.0f} times as much")
    slurm.main()


if __name__ == "__main__":
    main()
