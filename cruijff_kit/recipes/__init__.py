"""Recipes of ours: subclasses of torchtune's that mend one defect each, no copies.

A recipe here runs as torchtune's own do, by its importable name:
`tune run cruijff_kit.recipes.lora_finetune_single_device --config train_000.yaml`.
Importing this package imports nothing; each recipe imports torch and torchtune.
"""
