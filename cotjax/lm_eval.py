"""EleutherAI's evaluation harness: `cotjax lm-eval --model_args path=runs/NAME --tasks gsm8k`.

All flags are those of `lm_eval` (pip install "cotjax[lm-eval]"), to which this adds the model
`cotjax`: `path` is a run folder, one of its checkpoints, or a model. It is asked as the harness
asks `--model hf` about the folder that `cotjax export` writes. The harness finds models of other
packages once they are imported, so from Python:

    import cotjax.lm_eval, lm_eval
    cotjax.lm_eval.register()
    lm_eval.simple_evaluate(
        model="cotjax", model_args="path=runs/NAME", tasks=["gsm8k"]
    )
"""

import functools
import importlib
import sys
from collections.abc import Iterator, Sequence
from typing import Any

from cotjax.config.command import VERSION, Command, one_line_errors
from cotjax.errors import InputError
from cotjax.run.harness import Scorer
from cotjax.run.opened import config_from_flags, open_model
from cotjax.startup import set_up

NAME = "cotjax"
ROWS = 16  # of a batch, where the harness is to choose
# Errors of a task whose data are not here, by the names of their classes.
AWAY = {"ConnectionError", "OfflineModeIsEnabled", "DatasetNotFoundError", "ConnectError",
        "LocalEntryNotFoundError", "ConnectTimeout", "ProxyError"}  # fmt: skip


@one_line_errors
def main(argv: Sequence[str] | None = None) -> int:
    """Runs the harness; 0 if it worked, 2 if the input was wrong."""
    argv = sys.argv[1:] if argv is None else list(argv)
    if not argv or argv[0] in ("--help", "-h"):
        usage = "--model_args path=RUN --tasks TASK … [FLAG …]"
        print(Command("lm-eval", __doc__, usage=usage).format_help(), end="")
        return 0
    if argv[0] == "--version":
        print(VERSION)
        return 0
    register()
    named = any(word.partition("=")[0] in ("--model", "-M") for word in argv)
    if argv[0] not in ("ls", "validate") and not named:
        argv = [*argv, "--model", NAME]
    set_up()
    given, sys.argv = sys.argv, ["lm_eval", *argv]
    try:
        _harness("lm_eval.__main__").cli_evaluate()
    except Exception as error:
        if any(type(one).__name__ in AWAY for one in _causes(error)):
            what = str(error).strip().partition("\n")[0][:200]
            raise InputError(
                f"the harness could not load a task's data ({type(error).__name__}: {what}). They "
                "come from the network: connect, or name tasks of your own files with "
                "--include_path FOLDER."
            ) from error
        raise
    finally:
        sys.argv = given
    return 0


def _causes(error: BaseException | None) -> Iterator[BaseException]:
    while error is not None:
        yield error
        error = error.__cause__ or error.__context__


def _harness(module: str) -> Any:
    """A module of the harness.

    Raises:
      InputError: it is not installed.
    """
    try:
        return importlib.import_module(module)
    except ModuleNotFoundError as error:
        raise InputError(
            f"cotjax lm-eval: the harness is not installed ({error}). Run "
            'pip install "cotjax[lm-eval]".'
        ) from error


@functools.cache
def register() -> type:
    """Makes the model `cotjax` known to the harness in this process, and gives its class.

    Raises:
      InputError: the harness is not installed.
    """
    template = _harness("lm_eval.api.model").TemplateLM
    found = _harness("lm_eval.api.registry").register_model(NAME)(_model_class(template))
    return found


def _model_class(template: Any) -> Any:  # noqa: C901
    """The model, as the harness's own class for models with a tokenizer."""
    utils, models = _harness("lm_eval.utils"), _harness("lm_eval.models.utils")

    class CotjaxLM(template):
        """A run or a model.

        Args:
          path: a run folder, one of its checkpoints, or a model.
          batch_size: rows computed at once, or "auto".
          max_batch_size: the most of them where the size is "auto".
          device: the harness's; JAX has its own, see JAX_PLATFORMS.
          allow_nonfinite: whether weights may hold a NaN or an infinity.
        """

        def __init__(
            self,
            path: str = "",
            batch_size: int | str | None = None,
            max_batch_size: int | None = None,
            device: str | None = None,
            allow_nonfinite: bool = False,
            **others: Any,
        ) -> None:
            super().__init__()
            if not path or others:
                wrong = f"no argument {next(iter(others))}" if others else "no path"
                raise InputError(f"--model_args: {wrong}. The model cotjax takes path=RUN.")
            path = str(path)
            opened = open_model(path, config_from_flags(path, ()), allow_nonfinite=allow_nonfinite)
            size = str(batch_size or "auto").partition(":")[0]
            rows = int(size) if size.isdecimal() else min(max_batch_size or ROWS, ROWS)
            self._scorer = Scorer(opened, rows=max(rows, 1))
            self.tokenizer = self._scorer.tokenizer
            self._path = path

        @property
        def eot_token_id(self) -> int:
            return self.tokenizer.eos_token_id

        @property
        def prefix_token_id(self) -> int:
            bos = self.tokenizer.bos_token_id
            return self.eot_token_id if bos is None else bos

        @property
        def max_length(self) -> int:
            return self._scorer.max_length

        @property
        def tokenizer_name(self) -> str:
            return self._path.replace("/", "__")

        def apply_chat_template(
            self, chat_history: list[dict[str, str]], add_generation_prompt: bool = True
        ) -> str:
            return self.tokenizer.apply_chat_template(
                chat_history,
                tokenize=False,
                add_generation_prompt=add_generation_prompt,
                continue_final_message=not add_generation_prompt,
            )

        def tok_encode(
            self, string: str, add_special_tokens: bool | None = None, **kwargs: Any
        ) -> list[int]:
            begun = string.startswith(self.tokenizer.decode([self.prefix_token_id]))
            if add_special_tokens is None:
                add_special_tokens = not begun  # as the tokenizer does by itself
            return [*self.tokenizer.encode(string, add_special_tokens=add_special_tokens)]

        def _loglikelihood_tokens(
            self, requests: list[Any], **kwargs: Any
        ) -> list[tuple[float, bool]]:
            found = self._scorer.log_likelihoods([request[1:] for request in requests])
            for (key, *_), answer in zip(requests, found, strict=True):
                if key is not None:
                    self.cache_hook.add_partial("loglikelihood", key, answer)
            return found

        def loglikelihood_rolling(
            self, requests: list[Any], disable_tqdm: bool = False
        ) -> list[float]:
            windows = [[*self._windows(request.args[0])] for request in requests]
            flat = [(None, *one) for own in windows for one in own]
            scores = iter(self._loglikelihood_tokens(flat))
            return [sum(next(scores)[0] for _ in own) for own in windows]

        def _windows(self, text: str) -> Iterator[tuple[list[int], list[int]]]:
            """Context and continuation of the parts of a text that is longer than the context."""
            rolling = utils.get_rolling_token_windows(
                token_list=self.tok_encode(text),
                prefix_token=self.prefix_token_id,
                max_seq_len=self.max_length,
                context_len=1,
            )
            yield from map(utils.make_disjoint_window, rolling)

        def generate_until(self, requests: list[Any], disable_tqdm: bool = False) -> list[str]:
            found = [""] * len(requests)
            alike: dict[str, list[int]] = {}
            for place, request in enumerate(requests):
                alike.setdefault(repr(request.args[1]), []).append(place)
            for places in alike.values():
                given = models.normalize_gen_kwargs(requests[places[0]].args[1], 256)
                stops = models.handle_stop_sequences(given.get("until"), eos=None)
                texts = self._scorer.complete(
                    [self.tok_encode(requests[place].args[0]) for place in places],
                    stops=stops,
                    max_new_tokens=given["max_gen_toks"],
                    temperature=given.get("temperature", 0.0) if given.get("do_sample") else 0.0,
                    top_k=given.get("top_k") or 0,
                    top_p=given.get("top_p") or 1.0,
                )
                for place, text in zip(places, texts, strict=True):
                    found[place] = text
                    self.cache_hook.add_partial("generate_until", requests[place].args, text)
            return found

    return CotjaxLM


if __name__ == "__main__":
    set_up()
    sys.exit(main())
