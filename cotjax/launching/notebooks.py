"""The notebooks of Colab and Kaggle, with a run's config and settings in their first cells."""

import json

from cotjax.launching.job import Job
from cotjax.launching.templates import assigned, template


def colab(job: Job) -> str:
    """A notebook that takes the devices that its runtime has."""
    bucket = job.bucket
    kept = f"{bucket.source}/{bucket.folder}".rstrip("/") if bucket else ""
    return _filled("colab.ipynb", job, {"BUCKET": json.dumps(kept)})


def kaggle(job: Job) -> str:
    """A notebook for Kaggle's TPU v5e-8."""
    return _filled("kaggle.ipynb", job, {})


def _filled(name: str, job: Job, more: dict[str, str]) -> str:
    notebook = json.loads(template(name))
    cells = {tag: cell for cell in notebook["cells"] for tag in cell["metadata"].get("tags", ())}
    # JSON's texts and lists of them are Python's.
    values = {"NAME": json.dumps(job.name), "FLAGS": json.dumps(list(job.flags)), **more}
    settings = assigned("".join(cells["settings"]["source"]), values, equals=" = ")
    cells["settings"]["source"] = settings.splitlines(keepends=True)
    cells["config"]["source"] = f"CONFIG = {_python(job.text)}".splitlines(keepends=True)
    return json.dumps(notebook, indent=1, ensure_ascii=False) + "\n"


def _python(text: str) -> str:
    """A file's text as Python writes it, as it stands there if that is possible."""
    whole = text if text.endswith("\n") else f"{text}\n"
    return json.dumps(whole) if "'''" in whole else f"r'''\n{whole}'''"
