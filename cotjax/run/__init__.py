"""A run, from a config to a report, and what one does with it afterwards: the Python API.

start (train, run) → stage_list, one_stage → folder, parts, summary
handle (Run, open_run), opened (records, weights), measure, sample, use (evaluate, generate, plot)
"""

from cotjax.run.handle import Metrics as Metrics
from cotjax.run.handle import Run as Run
from cotjax.run.handle import open_run as open_run
from cotjax.run.one_stage import run_stage as run_stage
from cotjax.run.opened import load_records as load_records
from cotjax.run.stage_list import check_lengths as check_lengths
from cotjax.run.stage_list import plan as plan
from cotjax.run.stage_list import run_list as run_list
from cotjax.run.start import run as run
from cotjax.run.start import train as train
from cotjax.run.use import evaluate as evaluate
from cotjax.run.use import generate as generate
from cotjax.run.use import plot as plot
