"""Recipes of ours: subclasses of torchtune's that can be resumed and mend its defects, no copies.

A recipe here runs from any folder as torchtune's own do, by its importable name with slashes:
`tune run cruijff_kit/recipes/lora_finetune_single_device --config train_000.yaml`
(torchtune 0.6.1 takes what follows the last dot for a file's ending and drops it).
Importing this package imports nothing; each recipe imports torch and torchtune.
"""
