"""Scripts in this folder need torch; they are no tests."""

collect_ignore = ["make_golden.py", "trl_reference.py"]
