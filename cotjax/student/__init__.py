"""What every stage needs of the model that learns.

load (weights, tokenizer, prompts) → records → generate → rewards → groups, evaluate; before a run
preflight, and guards that check what goes in and comes out. `mining` finds persistent failures.
"""
