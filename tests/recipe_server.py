"""Runs recipes in forks of one process that has imported torch and torchtune, which costs 8 s.

It can also keep images of a folder: what a kill at each step of the writing would leave there.
"""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import subprocess
import sys
import traceback
from pathlib import Path
from typing import Any

RECIPES = ("lora_finetune_single_device", "full_finetune_single_device")
WRITING = {"open", "os.rename", "os.remove", "os.mkdir", "os.rmdir", "shutil.copyfile"}


class RecipeServer:
    """Asks the process to run recipes, one after another."""

    def __init__(self, folder: Path) -> None:
        root = Path(__file__).parents[1]
        environment = {**os.environ, "PYTHONPATH": str(root), "HF_HUB_OFFLINE": "1", "HF_DATASETS_CACHE": str(folder), "OMP_NUM_THREADS": "1"}
        pipe = subprocess.PIPE
        self._process = subprocess.Popen([sys.executable, "-m", "tests.recipe_server"], env=environment, stdin=pipe, stdout=pipe, text=True)

    def run(self, recipe: str, words: list[str], **options: Any) -> str:
        """What the recipe printed; raises unless it succeeded.

        Args:
            images: folder for the images of the folder `watched`.
        """
        request = {"recipe": recipe, "words": words, **{name: str(value) for name, value in options.items()}}
        self._process.stdin.write(json.dumps(request) + "\n")
        self._process.stdin.flush()
        code, said = json.loads(self._process.stdout.readline())
        assert code == 0, said
        return said

    def close(self) -> None:
        self._process.stdin.close()
        self._process.wait()


class Images:
    """Copies of a folder, one before each step that changes it, and of each file that is half written by C++ or Rust."""

    def __init__(self, watched: str, images: str) -> None:
        self._watched, self._images = watched, Path(images)
        self._busy, self._count = False, 0

    def take(self, what: str) -> Path | None:
        if self._busy or not os.path.isdir(self._watched):
            return None
        self._busy = True
        image = self._images / f"{self._count:03d} {what}"
        shutil.copytree(self._watched, image, symlinks=True)
        self._busy, self._count = False, self._count + 1
        return image

    def hook(self, event: str, arguments: tuple[Any, ...]) -> None:
        if event not in WRITING or self._busy or (event == "open" and not (arguments[2] or 0) & (os.O_WRONLY | os.O_RDWR)):
            return
        named = [os.fspath(each) for each in arguments if isinstance(each, (str, os.PathLike))]
        if any(name.startswith(self._watched) for name in named) or (event in ("os.remove", "os.rmdir") and arguments[-1] != -1):
            self.take(f"{event} {Path(named[0]).name}")

    def around(self, write: Any) -> Any:
        def call(value: Any, path: Any, *rest: Any, **options: Any) -> Any:
            self.take(f"write {Path(path).name}")
            result = write(value, path, *rest, **options)
            half = self.take(f"half {Path(path).name}")
            if half is not None and str(path).startswith(self._watched):
                os.truncate(half / Path(path).relative_to(self._watched), os.path.getsize(path) // 2)
            return result

        return call


def _run(request: dict[str, Any], modules: dict[str, Any]) -> int:
    """In the fork: the recipe, as `tune run` calls it."""
    if "images" in request:
        from torchtune.training.checkpointing import _checkpointer

        images = Images(request["watched"], request["images"])
        _checkpointer.save_file = images.around(_checkpointer.save_file)
        _checkpointer.torch.save = images.around(_checkpointer.torch.save)
        sys.addaudithook(images.hook)
    sys.argv = [request["recipe"], *request["words"]]
    try:
        modules[request["recipe"]].recipe_main()
    except SystemExit as end:
        return end.code or 0
    except BaseException:
        traceback.print_exc()
    return 1


def main() -> None:
    answers = os.fdopen(os.dup(1), "w")
    log = os.open("/dev/null", os.O_WRONLY)
    os.dup2(log, 1)
    from importlib import import_module

    import datasets  # noqa: F401
    import torch._dynamo  # noqa: F401  the first step of an optimizer imports it
    from cruijff_kit.recipes._resumable import load_torchtune_recipe

    modules = {f"cruijff_kit/recipes/{name}": import_module(f"cruijff_kit.recipes.{name}") for name in RECIPES}
    modules |= {name: load_torchtune_recipe(name) for name in RECIPES}
    for line in sys.stdin:
        read, write = os.pipe()
        pid = os.fork()
        if pid == 0:
            with contextlib.suppress(BaseException):
                os.dup2(write, 1)
                os.dup2(write, 2)
                code = _run(json.loads(line), modules)
                sys.stdout.flush()
                sys.stderr.flush()
                os._exit(code)
            os._exit(2)
        os.close(write)
        with os.fdopen(read, errors="replace") as output:
            said = output.read()
        _, status = os.waitpid(pid, 0)
        answers.write(json.dumps([os.waitstatus_to_exitcode(status), said]) + "\n")
        answers.flush()


if __name__ == "__main__":
    main()
