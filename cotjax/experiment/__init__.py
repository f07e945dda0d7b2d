"""Arms × seeds on the same questions with the same budget, from one file to tables and figures."""
