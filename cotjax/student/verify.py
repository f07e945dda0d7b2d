"""The verifiers of a run, of its rewards and of its evaluations: built in, or a user's own."""

import dataclasses
from typing import Literal

import numpy as np

from cotjax.config import Config, Plugin, plugin, verifier_object
from cotjax.cot import VERIFIERS, Numeric, Verifier

VerifierKey = Literal["reward.verifier", "eval.verifier"]


class UserVerifier:
    """A user's verifier; what it raises or gives wrongly names it.

    Args:
      own: what the key names.
    """

    def __init__(self, own: Plugin) -> None:
        self._own, self._object = own, verifier_object(own)

    def extract(self, text: str) -> str | None:
        """The answer of a completion, None if there is none.

        Raises:
          PluginError: the user's `extract` raised, or gave something else.
        """
        answer = self._own.call(self._object.extract, text)
        if not isinstance(answer, str | None):
            raise self._own.refuse(
                answer, "extract needs to give the answer as text, or None. Return str(…)."
            )
        return answer

    def equal(self, answer: str, gold: str) -> bool:
        """Whether an answer is the gold one.

        Raises:
          PluginError: the user's `equal` raised, or gave something else.
        """
        same = self._own.call(self._object.equal, answer, gold)
        if not isinstance(same, bool | np.bool_):
            raise self._own.refuse(
                same, "equal needs to give True or False. Return a comparison's result."
            )
        return bool(same)


def open_verifier(config: Config, key: VerifierKey = "reward.verifier") -> Verifier:
    """The verifier that a key names.

    Args:
      config: of the run.
      key: of the rewards, and of all that they decide; or of the evaluations.

    Raises:
      InputError: see `plugin`.
    """
    name = config.eval.verifier
    if key == "reward.verifier" or name == "auto":
        key, name = "reward.verifier", config.reward.verifier
    own = plugin(config, key)
    if own is not None:
        return UserVerifier(own)
    verifier, tolerance = VERIFIERS[name](), config.reward.tolerance
    if isinstance(verifier, Numeric) and tolerance != "auto":
        return dataclasses.replace(verifier, tolerance=tolerance)
    return verifier
