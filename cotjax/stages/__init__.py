"""The training stages. `config.reference` names the class of each; a user's own needs no entry.

A stage's file holds its defaults, the settings that it reads, what must agree among them, its
facts for the report, and how it is wired. It imports JAX only when it is opened, so that a
wrong setting is reported at once.
"""
